package export

// MemoryWords is how many words of Options.Memory are used at most.
const MemoryWords = 256

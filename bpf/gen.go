package bpf

// A rebuild anywhere gives the same octets: the sources include no header of
// the machine's, and what tells of the place is stripped (build_test.go).

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types flow flow.bpf.c -- -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-function

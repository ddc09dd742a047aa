package query

// SyntaxError says where a filter lost its sense.
type SyntaxError struct {
	Source    string   // the filter's text
	Line, Col int      // from 1, in runes
	Width     int      // runes that the caret line marks
	Found     string   // "" at the end
	Msg       string   // what is wrong, with what would be accepted
	Accepted  []string // what would be accepted here
	Suggest   string   // did you mean; may be empty
}

func (e *SyntaxError) Error() string { return e.Msg }

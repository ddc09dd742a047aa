// Package differential holds weir against independent readers on input that
// nobody chose: seeded generators write captures and export streams, damaged
// ones too, and weir must say what tshark says. What differs is listed with its
// reason; an entry of the list that no longer differs fails.
//
// The readers are scripts of the corpus (WEIR_CORPUS, or ../shared/corpus from
// the project's root) around tshark; without them the tests are skipped.
// WEIR_DIFFERENTIAL=N adds N seeds to the ones that always run;
// WEIR_DIFFERENTIAL=A-B runs those of that range alone.
package differential

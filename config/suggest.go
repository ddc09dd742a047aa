package config

import "strings"

// Suggest returns the candidate that a typing error turns into got, or "".
func Suggest(got string, candidates []string) string {
	got = strings.ToLower(got)
	best, at := "", max(1, len(got)/3)+1
	for _, c := range candidates {
		if d := distance(got, strings.ToLower(c)); d < at {
			best, at = c, d
		}
	}
	return best
}

func didYouMean(got string, candidates []string) string {
	if s := Suggest(got, candidates); s != "" {
		return ` (did you mean "` + s + `"?)`
	}
	return ""
}

// distance counts insertions, deletions, changes and swaps of neighbours
// (optimal string alignment).
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}

package capture

// nearest is the name that is nearest to word by edits, or "" if none is near.
func nearest(word string, names []string) string {
	best, name := len(word)/2+1, ""
	for _, n := range names {
		if d := edits(word, n); d < best {
			best, name = d, n
		}
	}
	return name
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			d := diagonal
			if a[i-1] != b[j-1] {
				d++
			}
			diagonal = row[j]
			row[j] = min(d, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

package query

import (
	"iter"
	"slices"

	"weir/store"
)

// A walk over records in order of time asks for one slice of time after the
// other. How many records a slice has is estimated from the segments' spans.
const (
	firstSlice = 128 << 10 // records in the first one, about
	mostSlice  = 512 << 10 // records in any, about, when all are wanted: they are sorted in memory
)

// span is [from, to), µs.
type span struct{ from, to int64 }

// timeSlices gives spans that cover all of the segments within the plan's,
// without overlap, in the order of the plan. With a limit they double in size,
// as an engine that keeps only the first few has no trouble with long ones.
func timeSlices(p *plan, segments []store.Segment) iter.Seq[span] {
	return func(yield func(span) bool) {
		// The points where a segment begins or ends cut time into pieces of even
		// density; a piece that holds too much is cut evenly.
		var points []int64
		for _, s := range segments {
			points = append(points, max(s.MinTime, p.from), min(s.MaxTime, p.to-1)+1)
		}
		slices.Sort(points)
		points = slices.Compact(points)
		want := float64(firstSlice)
		var open span
		held := 0.0
		emit := func(s span) bool {
			if p.limit >= 0 {
				want *= 2
			} else {
				want = min(want*2, mostSlice)
			}
			return yield(s)
		}
		for i := range len(points) - 1 {
			piece := span{points[i], points[i+1]}
			if !p.order.asc {
				piece = span{points[len(points)-2-i], points[len(points)-1-i]}
			}
			n := estimate(segments, piece)
			for held+n > want {
				if held >= want/2 {
					if !emit(open) {
						return
					}
					open, held = span{}, 0
					continue
				}
				length := int64(float64(piece.to-piece.from) * (want - held) / n)
				if length < 1 || length >= piece.to-piece.from {
					break // no finer than a µs
				}
				part := span{piece.from, piece.from + length}
				rest := span{piece.from + length, piece.to}
				if !p.order.asc {
					part, rest = span{piece.to - length, piece.to}, span{piece.from, piece.to - length}
				}
				if !emit(join(open, part)) {
					return
				}
				open, held = span{}, 0
				piece, n = rest, estimate(segments, rest)
			}
			open = join(open, piece)
			held += n
		}
		if open != (span{}) {
			yield(open)
		}
	}
}

// join gives the span over two that touch; one may be empty.
func join(a, b span) span {
	if a == (span{}) {
		return b
	}
	return span{min(a.from, b.from), max(a.to, b.to)}
}

// estimate is how many records lie in s if segments are evenly filled.
func estimate(segments []store.Segment, s span) float64 {
	n := 0.0
	for _, g := range segments {
		from, to := max(g.MinTime, s.from), min(g.MaxTime+1, s.to)
		if from < to {
			n += float64(g.Rows) * float64(to-from) / float64(g.MaxTime+1-g.MinTime)
		}
	}
	return n
}

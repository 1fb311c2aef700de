package v1alpha1

import (
	"reflect"
	"strings"
)

// suggest ends the message about an unknown field: the most similar field of
// t, or where in the file a field of that name has its place.
func suggest(t reflect.Type, name string) string {
	best, least := "", 0
	for _, f := range reflect.VisibleFields(t) {
		known := jsonName(f)
		if known == "" {
			continue
		}
		d := distance(strings.ToLower(name), strings.ToLower(known))
		if d <= len(known)/3+1 && d < len(known) && (best == "" || d < least) {
			best, least = known, d
		}
	}
	if best != "" {
		return "; did you mean " + best + "?"
	}
	if place := placeOf(reflect.TypeFor[Cluster](), name); place != "" {
		return "; did you mean " + place + "?"
	}
	return ""
}

// placeOf finds a field by its exact name anywhere below t.
func placeOf(t reflect.Type, name string) string {
	for _, f := range reflect.VisibleFields(t) {
		own := jsonName(f)
		if own == "" {
			continue
		}
		if own == name {
			return own
		}
		in, suffix := f.Type, ""
		for in.Kind() == reflect.Slice || in.Kind() == reflect.Pointer {
			if in.Kind() == reflect.Slice {
				suffix = "[]"
			}
			in = in.Elem()
		}
		if in.Kind() != reflect.Struct {
			continue
		}
		if place := placeOf(in, name); place != "" {
			return own + suffix + "." + place
		}
	}
	return ""
}

// distance is Levenshtein's: the fewest single-byte edits from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

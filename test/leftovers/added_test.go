package leftovers

import (
	"slices"
	"testing"
)

func TestAdded(t *testing.T) {
	tests := map[string]struct{ before, after, want []string }{
		"nothing":          {nil, nil, nil},
		"what was there":   {[]string{"a", "b"}, []string{"b", "a"}, nil},
		"what has gone":    {[]string{"a", "b"}, []string{"a"}, nil},
		"what is new":      {[]string{"a"}, []string{"a", "b"}, []string{"b"}},
		"more of the same": {[]string{"a"}, []string{"a", "a", "a"}, []string{"a", "a"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Added(tt.before, tt.after); !slices.Equal(got, tt.want) {
				t.Errorf("have %q, want %q", got, tt.want)
			}
		})
	}
}

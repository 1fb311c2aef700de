package compose

import (
	"fmt"
	"strconv"
	"strings"
)

// stringMap is a flag of the form a=b,c=d.
type stringMap map[string]string

func (m *stringMap) String() string { return fmt.Sprint(map[string]string(*m)) }

func (m *stringMap) Set(value string) error {
	*m = stringMap{}
	for _, pair := range split(value) {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("%q: want name=value", pair)
		}
		(*m)[key] = value
	}
	return nil
}

// boolMap is a flag of the form a=true,c=false.
type boolMap map[string]bool

func (m *boolMap) String() string { return fmt.Sprint(map[string]bool(*m)) }

func (m *boolMap) Set(value string) error {
	var texts stringMap
	if err := texts.Set(value); err != nil {
		return err
	}
	*m = boolMap{}
	for key, text := range texts {
		value, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		(*m)[key] = value
	}
	return nil
}

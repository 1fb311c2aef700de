package dns

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
)

// writeFiles makes dir hold the keys of the ConfigMap and nothing else, as a
// mounted one does: `hosts`, `file` and `import` read from there.
func writeFiles(dir string, configMap *corev1.ConfigMap) error {
	files := maps.Clone(configMap.BinaryData)
	if files == nil {
		files = map[string][]byte{}
	}
	for key, text := range configMap.Data {
		files[key] = []byte(text)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write the ConfigMap's files: %w", err)
	}
	have, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("write the ConfigMap's files: %w", err)
	}
	for _, f := range have {
		if _, ok := files[f.Name()]; !ok {
			if err := os.RemoveAll(filepath.Join(dir, f.Name())); err != nil {
				return fmt.Errorf("write the ConfigMap's files: %w", err)
			}
		}
	}
	for key, data := range files {
		path := filepath.Join(dir, key)
		// Plugins look at their files whenever they like. No key begins with
		// two dots.
		tmp := filepath.Join(dir, ".."+key)
		if err := os.WriteFile(tmp, data, 0o644); err != nil {
			return fmt.Errorf("write the ConfigMap's files: %w", err)
		}
		if err := os.Rename(tmp, path); err != nil {
			return fmt.Errorf("write the ConfigMap's files: %w", err)
		}
	}
	return nil
}

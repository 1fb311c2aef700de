//go:build robustness

package robustness

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/test/robustness/history"
)

// contentRepeat makes an object some 700 bytes long.
const contentRepeat = 10

// object is what an operation writes: its value, the value's digest repeated,
// and nothing else.
func object(o *history.Operation) *corev1.ConfigMap {
	prefix, _, _ := strings.Cut(o.Key, "-")
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: o.Key, Labels: map[string]string{"epoch": prefix}},
		Data:       map[string]string{"value": o.Value, "digest": digest(o.Key, o.Value)},
	}
	if o.Precondition != 0 {
		cm.ResourceVersion = strconv.FormatInt(o.Precondition, 10)
	}
	return cm
}

func digest(key, value string) string {
	sum := sha256.Sum256([]byte(key + "=" + value))
	return strings.Repeat(hex.EncodeToString(sum[:]), contentRepeat)
}

// content is an object's value; one whose digest is another's is no value
// that anybody wrote.
func content(cm *corev1.ConfigMap) string {
	value := cm.Data["value"]
	if cm.Data["digest"] != digest(cm.Name, value) {
		return "damaged: " + value
	}
	return value
}

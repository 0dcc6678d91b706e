package secret

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestWireIsBytesInJSONAlone(t *testing.T) {
	type request struct {
		Secrets map[string]Wire `json:"secrets"`
	}
	r := request{map[string]Wire{"KEY": {NewValue("hunter2 <&> \"é\"")}}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if got := fmt.Sprintf(verb, r); strings.Contains(got, "hunter2") || strings.Contains(got, "68756e746572") {
			t.Errorf("%s: %s", verb, got)
		}
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back request
	if err := json.Unmarshal(b, &back); err != nil || !back.Secrets["KEY"].Equal(r.Secrets["KEY"].Value) {
		t.Errorf("%v", err)
	}
	if err := json.Unmarshal([]byte(`{"secrets":{"KEY":7}}`), &back); err == nil || strings.Contains(err.Error(), "hunter") {
		t.Errorf("%v", err)
	}
}

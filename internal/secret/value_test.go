package secret

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/pelletier/go-toml/v2"
)

const bytesOfIt = "sk-ant-very-secret-7f3"

// holder has a Value in every place that a structure can have one.
type holder struct {
	Plain   Value
	Pointer *Value
	List    []Value
	Map     map[string]Value
	Keys    map[Value]string
	Any     any
	Nested  struct{ V Value }
	Token   Token
	hidden  Value
	source  Source
}

func everywhere(v Value) holder {
	h := holder{
		Plain: v, Pointer: &v, List: []Value{v}, Map: map[string]Value{"k": v}, Keys: map[Value]string{v: "x"}, Any: v,
		Token: Token{Value: v, Expires: time.Unix(1, 0)}, hidden: v, source: Fixed(v),
	}
	h.Nested.V = v
	return h
}

// shows fails when text has the secret, in one of the ways in which printers
// write bytes.
func shows(t *testing.T, how, text string) {
	t.Helper()
	b := []byte(bytesOfIt)
	for _, form := range []string{
		bytesOfIt, fmt.Sprintf("%x", b), fmt.Sprintf("%X", b), fmt.Sprintf("% x", b), fmt.Sprint(b), fmt.Sprintf("%q", bytesOfIt),
		strconv.QuoteToASCII(bytesOfIt[2:]), fmt.Sprintf("%#v", b),
	} {
		if strings.Contains(text, form) {
			t.Errorf("%s shows the secret: %s", how, text)
			return
		}
	}
}

// TestShowsSeesALeak: what the tests below look for would be found.
func TestShowsSeesALeak(t *testing.T) {
	for _, leak := range []string{bytesOfIt, fmt.Sprintf("%x", bytesOfIt), fmt.Sprint([]byte(bytesOfIt))} {
		probe := &testing.T{}
		if shows(probe, "x", "a"+leak+"b"); !probe.Failed() {
			t.Errorf("not seen: %s", leak)
		}
	}
}

func TestNoVerbShowsIt(t *testing.T) {
	v := NewValue(bytesOfIt)
	things := map[string]any{
		"value": v, "pointer": &v, "holder": everywhere(v), "pointer to holder": new(everywhere(v)), "token": Token{Value: v},
		"list": []Value{v}, "source": Fixed(v), "error": fmt.Errorf("send %s: %v %w", v, v, errors.New("x")),
		"stored": &stored{unsaved: &unsaved{tok: Token{Value: v}}}, "output": output{value: v},
	}
	for name, thing := range things {
		for verb := ' ' + 1; verb < 127; verb++ {
			for _, flags := range []string{"", "+", "#", "-", " ", "0", "+#", "20.3", ".3"} {
				format := "%" + flags + string(verb)
				if name == "error" && verb == 'T' {
					continue
				}
				shows(t, name+" by "+format, fmt.Sprintf(format, thing))
			}
		}
		shows(t, name+" by Sprint", fmt.Sprint(thing))
		shows(t, name+" by Sprintln", fmt.Sprintln(thing))
		shows(t, name+" by Errorf", fmt.Errorf("a: %w", fmt.Errorf("b: %v", thing)).Error())
	}
	if got := fmt.Sprintf("%s %v %q %x %d", v, v, v, v, v); got != strings.TrimSpace(strings.Repeat(redacted+" ", 5)) {
		t.Error(got)
	}
	if v.String() != redacted || v.GoString() != redacted {
		t.Error(v.String(), v.GoString())
	}
}

func TestNoLogShowsIt(t *testing.T) {
	v := NewValue(bytesOfIt)
	var out bytes.Buffer
	opts := &slog.HandlerOptions{AddSource: true, Level: slog.LevelDebug}
	for name, h := range map[string]slog.Handler{
		"text": slog.NewTextHandler(&out, opts), "JSON": slog.NewJSONHandler(&out, opts),
		"multi": slog.NewMultiHandler(slog.NewTextHandler(&out, opts), slog.NewJSONHandler(&out, opts)),
	} {
		out.Reset()
		l := slog.New(h).With("with", v, "holder", everywhere(v)).WithGroup("g")
		l.Info("message "+v.String(), "v", v, "p", &v, "h", everywhere(v), "hp", new(everywhere(v)), "list", []Value{v},
			slog.Any("any", v), slog.Group("x", "y", v), "err", fmt.Errorf("x %v", v), "tok", Token{Value: v})
		if !strings.Contains(out.String(), redacted) {
			t.Errorf("%s: %s", name, out.String())
		}
		shows(t, "slog "+name, out.String())
	}
	out.Reset()
	log.New(&out, "", log.LstdFlags).Printf("%v %+v %#v", v, everywhere(v), everywhere(v))
	shows(t, "log", out.String())
}

func TestNoEncoderShowsIt(t *testing.T) {
	v := NewValue(bytesOfIt)
	h := everywhere(v)
	noKeys := h
	noKeys.Keys, noKeys.Map, noKeys.Any = nil, nil, nil
	for name, encode := range map[string]func(io.Writer) error{
		"JSON": func(w io.Writer) error { return json.NewEncoder(w).Encode(h) },
		"JSON of the value": func(w io.Writer) error {
			return json.NewEncoder(w).Encode(map[Value]Value{v: v})
		},
		"TOML":     func(w io.Writer) error { return toml.NewEncoder(w).Encode(noKeys) },
		"TOML map": func(w io.Writer) error { return toml.NewEncoder(w).Encode(map[string]any{"a": v, "b": []Value{v}}) },
		"XML":      func(w io.Writer) error { return xml.NewEncoder(w).Encode(v) },
		"template": func(w io.Writer) error {
			return template.Must(template.New("").Parse("{{.Plain}} {{.Nested.V}} {{.List}} {{printf \"%#v\" .Plain}}")).Execute(w, h)
		},
	} {
		var out bytes.Buffer
		if err := encode(&out); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(out.String(), redacted) {
			t.Errorf("%s: %q", name, out.String())
		}
		shows(t, name, out.String())
	}
	var out bytes.Buffer
	if err := gob.NewEncoder(&out).Encode(h); err == nil {
		t.Error("gob encodes it")
	}
	shows(t, "gob", out.String())
}

// TestNoWalkShowsIt: a printer that walks over everything that reflection lets
// it read, as dumpers of structures do, methods of the types or not.
func TestNoWalkShowsIt(t *testing.T) {
	v := NewValue(bytesOfIt)
	for _, thing := range []any{v, everywhere(v), new(everywhere(v)), Token{Value: v}} {
		var out strings.Builder
		dump(&out, reflect.ValueOf(thing), 0)
		shows(t, fmt.Sprintf("walking %T", thing), out.String())
	}
	var out strings.Builder
	dump(&out, reflect.ValueOf(&struct{ s any }{&struct{ s string }{bytesOfIt}}), 0)
	if !strings.Contains(out.String(), bytesOfIt) {
		t.Error("the walk sees nothing")
	}
}

func dump(out *strings.Builder, v reflect.Value, depth int) {
	if depth > 12 || !v.IsValid() {
		return
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		dump(out, v.Elem(), depth+1)
	case reflect.Struct:
		// Fields that are not exported too: reflection reads strings there.
		for i := range v.NumField() {
			fmt.Fprintf(out, "%s:", v.Type().Field(i).Name)
			dump(out, v.Field(i), depth+1)
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			dump(out, v.Index(i), depth+1)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			dump(out, it.Key(), depth+1)
			dump(out, it.Value(), depth+1)
		}
	case reflect.String:
		out.WriteString(v.String())
	default:
		if v.CanInterface() {
			fmt.Fprintf(out, "%v", v.Interface())
		}
	}
}

// TestNothingReadsItBack: "[secret]" in a file never becomes a secret.
func TestNothingReadsItBack(t *testing.T) {
	var h struct{ V Value }
	if err := json.Unmarshal([]byte(`{"V":"[secret]"}`), &h); err == nil {
		t.Error("JSON became a secret")
	}
	if err := toml.Unmarshal([]byte(`V = "[secret]"`), &h); err == nil && !h.V.IsZero() {
		t.Error("TOML became a secret")
	}
}

func TestValue(t *testing.T) {
	a, b, zero := NewValue("a"), NewValue("b"), Value{}
	if !NewValue("").IsZero() || !zero.IsZero() || a.IsZero() || zero.Reveal() != "" || a.Reveal() != "a" {
		t.Error("zero")
	}
	if !a.Equal(NewValue("a")) || a.Equal(b) || a.Equal(zero) || !zero.Equal(NewValue("")) {
		t.Error("equal")
	}
	if fmt.Sprint(zero) != redacted {
		t.Error(fmt.Sprint(zero))
	}
	tok, err := Fixed(a).Token(t.Context())
	if err != nil || !tok.Value.Equal(a) || !tok.Expires.IsZero() {
		t.Error(tok, err)
	}
}

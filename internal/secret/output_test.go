package secret

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"
)

func jwt(claims string) string {
	e := base64.RawURLEncoding.EncodeToString
	return e([]byte(`{"alg":"none"}`)) + "." + e([]byte(claims)) + "." + e([]byte("signature"))
}

func TestUnderstand(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	hour := now.Add(time.Hour)
	half := now.Add(30 * time.Minute)
	unix := fmt.Sprint(hour.Unix())
	withExp := jwt(`{"sub":"x","exp":` + unix + `}`)
	aws := `{"Version":1,"AccessKeyId":"AKIA1","SecretAccessKey":"s/k","SessionToken":"tok"}`
	for name, c := range map[string]struct {
		out     string
		ttl     time.Duration
		want    string
		expires time.Time
		stated  bool
	}{
		"text":               {out: "tok\n", want: "tok", expires: now.Add(defaultTTL)},
		"text with a TTL":    {out: " tok \r\n", ttl: time.Minute, want: "tok", expires: now.Add(time.Minute)},
		"lines":              {out: "a\nb\n\n", want: "a\nb", expires: now.Add(defaultTTL)},
		"JWT":                {out: withExp + "\n", ttl: time.Second, want: withExp, expires: hour, stated: true},
		"JWT without exp":    {out: jwt(`{"sub":"x"}`), want: jwt(`{"sub":"x"}`), expires: now.Add(defaultTTL)},
		"JWT of rubbish":     {out: "eyJ.@@@.x", want: "eyJ.@@@.x", expires: now.Add(defaultTTL)},
		"JWT with text":      {out: jwt(`{"exp":"soon"}`), want: jwt(`{"exp":"soon"}`), expires: now.Add(defaultTTL)},
		"unknown JSON":       {out: `{"type":"service_account"}`, want: `{"type":"service_account"}`, expires: now.Add(defaultTTL)},
		"broken JSON":        {out: `{"token":`, want: `{"token":`, expires: now.Add(defaultTTL)},
		"token":              {out: `{"token":"t"}`, ttl: time.Hour, want: "t", expires: hour},
		"GitHub app":         {out: `{"token":"ghs_1","expires_at":"2026-03-01T13:00:00Z"}`, want: "ghs_1", expires: hour, stated: true},
		"OAuth":              {out: `{"access_token":"t","token_type":"Bearer","expires_in":3600}`, want: "t", expires: hour, stated: true},
		"expires_in as text": {out: `{"access_token":"t","expires_in":"3600"}`, want: "t", expires: hour, stated: true},
		"expires_at unix":    {out: `{"token":"t","expires_at":` + unix + `}`, want: "t", expires: hour, stated: true},
		"expires_at ms":      {out: `{"token":"t","expires_at":` + unix + `000}`, want: "t", expires: hour, stated: true},
		"expiry":             {out: `{"access_token":"t","expiry":"2026-03-01T14:00:00+01:00"}`, want: "t", expires: hour, stated: true},
		"no expiry":          {out: `{"token":"t","expiry":null,"expires_in":null,"expires_at":""}`, want: "t", expires: now.Add(defaultTTL)},
		"Azure":              {out: `{"accessToken":"t","expiresOn":"2026-03-01 13:00:00.000000","tenant":"x"}`, want: "t", expires: hour, stated: true},
		"Azure now":          {out: `{"accessToken":"t","expiresOn":"1999-03-01 13:00:00.000000","expires_on":` + unix + `}`, want: "t", expires: hour, stated: true},
		"gcloud":             {out: `{"configuration":{},"credential":{"access_token":"t","id_token":"i","token_expiry":"2026-03-01T13:00:00Z"}}`, want: "t", expires: hour, stated: true},
		"the earlier counts": {out: `{"token":"` + withExp + `","expires_in":1800}`, want: withExp, expires: half, stated: true},
		"the JWT's, earlier": {out: `{"token":"` + withExp + `","expires_in":7200}`, want: withExp, expires: hour, stated: true},
		"AWS":                {out: "  " + aws[:len(aws)-1] + `,"Expiration":"2026-03-01T13:00:00+00:00","More":1}`, want: aws, expires: hour, stated: true},
		"AWS that stay":      {out: `{"Version": 1, "AccessKeyId": "AKIA1", "SecretAccessKey": "s"}`, ttl: time.Hour, want: `{"Version":1,"AccessKeyId":"AKIA1","SecretAccessKey":"s"}`, expires: hour},
		"ExecCredential":     {out: `{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{"token":"t","expirationTimestamp":"2026-03-01T13:00:00Z"}}`, want: "t", expires: hour, stated: true},
		"ExecCredential 2":   {out: `{"kind":"ExecCredential","status":{"token":"t"}}`, want: "t", expires: now.Add(defaultTTL)},
	} {
		o, err := understand([]byte(c.out), now, c.ttl)
		if err != nil || o.value.Reveal() != c.want || !o.expires.Equal(c.expires) || o.stated != c.stated {
			t.Errorf("%s: %q until %s, stated %v, %v", name, o.value.Reveal(), o.expires, o.stated, err)
		}
	}
	for name, out := range map[string]string{
		"nothing":               " \n",
		"zero":                  bytesOfIt + "\x00",
		"expired JWT":           jwt(`{"exp":1000000000,"x":"` + bytesOfIt + `"}`),
		"expired":               `{"token":"` + bytesOfIt + `","expires_in":0}`,
		"expired at":            `{"token":"` + bytesOfIt + `","expires_at":"2020-01-01T00:00:00Z"}`,
		"bad expires_in":        `{"token":"t","expires_in":"` + bytesOfIt + `"}`,
		"endless":               `{"token":"t","expires_in":1e300}`,
		"negative":              `{"token":"t","expires_in":-5}`,
		"bad expires_at":        `{"token":"t","expires_at":"` + bytesOfIt + `"}`,
		"half of AWS":           `{"AccessKeyId":"` + bytesOfIt + `","SecretAccessKey":""}`,
		"AWS of 2":              `{"Version":2,"AccessKeyId":"` + bytesOfIt + `","SecretAccessKey":"x"}`,
		"AWS never":             `{"AccessKeyId":"` + bytesOfIt + `","SecretAccessKey":"x","Expiration":"` + bytesOfIt + `"}`,
		"ExecCredential":        `{"kind":"ExecCredential","status":{"clientKeyData":"` + bytesOfIt + `"}}`,
		"ExecCredential never":  `{"kind":"ExecCredential","status":{"token":"x","expirationTimestamp":"` + bytesOfIt + `"}}`,
		"ExecCredential of few": `{"kind":"ExecCredential"}`,
	} {
		o, err := understand([]byte(out), now, 0)
		if err == nil {
			t.Errorf("%s: %q until %s", name, o.value.Reveal(), o.expires)
		}
		shows(t, name, fmt.Sprint(err))
	}
}

func FuzzUnderstand(f *testing.F) {
	for _, s := range []string{"tok", `{"token":"t","expires_in":5}`, jwt(`{"exp":9999999999}`), `{"AccessKeyId":"a","SecretAccessKey":"b"}`, `{"kind":"ExecCredential","status":{"token":"t","expirationTimestamp":1}}`} {
		f.Add([]byte(s))
	}
	now := time.Unix(1_800_000_000, 0)
	f.Fuzz(func(t *testing.T, out []byte) {
		o, err := understand(out, now, 0)
		if err != nil {
			if text := strings.TrimSpace(string(out)); len(text) > 12 && strings.Contains(err.Error(), text) {
				t.Errorf("the error quotes: %v", err)
			}
			return
		}
		if o.value.IsZero() || !o.expires.After(now) {
			t.Errorf("%q: %v", out, o.expires)
		}
	})
}

func TestAWSKeys(t *testing.T) {
	k, err := ParseAWSKeys(NewValue(`{"Version":1,"AccessKeyId":"AKIA1","SecretAccessKey":"s","SessionToken":"t"}`))
	if err != nil || k.ID != "AKIA1" || k.Secret.Reveal() != "s" || k.Session.Reveal() != "t" {
		t.Error(k, err)
	}
	if again, err := ParseAWSKeys(NewAWSKeys(k.ID, k.Secret.Reveal(), k.Session.Reveal())); err != nil || again.ID != k.ID || !again.Secret.Equal(k.Secret) || !again.Session.Equal(k.Session) {
		t.Error(again, err)
	}
	for _, bad := range []string{"", bytesOfIt, "{}", `{"AccessKeyId":"a"}`} {
		_, err := ParseAWSKeys(NewValue(bad))
		if err == nil {
			t.Errorf("parsed %q", bad)
		}
		shows(t, "AWS", fmt.Sprint(err))
	}
}

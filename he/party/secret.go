package party

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// secret is 32 bytes that never print. The named secrets embed it.
type secret struct{ b [32]byte }

// fill takes system randomness.
func (s *secret) fill() error {
	_, err := io.ReadFull(rand.Reader, s.b[:])
	return err
}

// Secret returns the bytes for the journal. The caller keeps them as it would
// keep the value.
func (s *secret) Secret() []byte { return append([]byte(nil), s.b[:]...) }

// Wipe overwrites the bytes. It is best effort: the runtime may have copied
// them.
func (s *secret) Wipe() { clear(s.b[:]) }

func (s *secret) equal(o *secret) bool { return subtle.ConstantTimeCompare(s.b[:], o.b[:]) == 1 }

func (s secret) Format(f fmt.State, _ rune) { io.WriteString(f, "secret"+redacted) }
func (s secret) String() string             { return "secret" + redacted }
func (s secret) LogValue() slog.Value       { return slog.StringValue("secret" + redacted) }

const redacted = "(redacted)"

// Contribution is a hospital's 32 bytes towards the group key. It prints as
// Contribution(redacted).
type Contribution struct{ secret }

// Seed is what one contribution to one attempt derives from: its round key,
// its errors, its sharing. It prints as Seed(redacted).
type Seed struct{ secret }

func (c Contribution) String() string             { return "Contribution" + redacted }
func (c Contribution) GoString() string           { return c.String() }
func (c Contribution) LogValue() slog.Value       { return slog.StringValue(c.String()) }
func (c Contribution) Format(f fmt.State, _ rune) { io.WriteString(f, c.String()) }

func (s Seed) String() string             { return "Seed" + redacted }
func (s Seed) GoString() string           { return s.String() }
func (s Seed) LogValue() slog.Value       { return slog.StringValue(s.String()) }
func (s Seed) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

func (g GroupKey) String() string             { return "GroupKey" + redacted }
func (g GroupKey) GoString() string           { return g.String() }
func (g GroupKey) LogValue() slog.Value       { return slog.StringValue(g.String()) }
func (g GroupKey) Format(f fmt.State, _ rune) { io.WriteString(f, g.String()) }

func (k KeyShare) String() string             { return "KeyShare" + redacted }
func (k KeyShare) GoString() string           { return k.String() }
func (k KeyShare) LogValue() slog.Value       { return slog.StringValue(k.String()) }
func (k KeyShare) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

func (o OpeningShare) String() string             { return "OpeningShare" + redacted }
func (o OpeningShare) GoString() string           { return o.String() }
func (o OpeningShare) LogValue() slog.Value       { return slog.StringValue(o.String()) }
func (o OpeningShare) Format(f fmt.State, _ rune) { io.WriteString(f, o.String()) }

func (d Dealing) String() string             { return "Dealing" + redacted }
func (d Dealing) GoString() string           { return d.String() }
func (d Dealing) LogValue() slog.Value       { return slog.StringValue(d.String()) }
func (d Dealing) Format(f fmt.State, _ rune) { io.WriteString(f, d.String()) }

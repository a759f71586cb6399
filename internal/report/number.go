package report

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// value is a number's float64, or NaN where there is none.
func value(n *json.Number) float64 {
	if n == nil {
		return math.NaN()
	}
	v, err := n.Float64()
	if err != nil {
		return math.NaN()
	}
	return v
}

// exact is a number's own text, for data attributes; "" where there is none.
func exact(n *json.Number) string {
	if n == nil {
		return ""
	}
	return n.String()
}

// sig rounds to n significant digits for people: 0.334, 12.5, 1 204, 3.1·10⁻⁷.
func sig(v float64, n int) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.IsInf(v, 1):
		return "∞"
	case math.IsInf(v, -1):
		return "−∞"
	case v == 0:
		return "0"
	}
	if v == math.Trunc(v) && math.Abs(v) < 1e9 {
		return minus(group(strconv.FormatFloat(v, 'f', 0, 64)))
	}
	e := int(math.Floor(math.Log10(math.Abs(v))))
	if e < -4 || e > 9 {
		s := strconv.FormatFloat(v, 'e', n-1, 64)
		mant, exp, _ := strings.Cut(s, "e")
		x, _ := strconv.Atoi(exp)
		return minus(mant) + "·10" + superscript(x)
	}
	s := strconv.FormatFloat(v, 'f', max(0, n-1-e), 64)
	if e >= n {
		s = group(s)
	}
	return minus(s)
}

func minus(s string) string { return strings.Replace(s, "-", "−", 1) }

func superscript(v int) string {
	return strings.NewReplacer("-", "⁻", "0", "⁰", "1", "¹", "2", "²", "3", "³", "4", "⁴", "5", "⁵", "6", "⁶", "7", "⁷", "8", "⁸", "9", "⁹").
		Replace(strconv.Itoa(v))
}

// group puts thin spaces between thousands of a whole number.
func group(s string) string {
	head, tail, dot := strings.Cut(s, ".")
	sign := ""
	if strings.HasPrefix(head, "-") {
		sign, head = "-", head[1:]
	}
	for i := len(head) - 3; i > 0; i -= 3 {
		head = head[:i] + "\u2009" + head[i:]
	}
	if dot {
		head += "." + tail
	}
	return sign + head
}

// short is sig for a JSON number.
func short(n json.Number, digits int) string { return sig(value(&n), digits) }

func shortP(n *json.Number, digits int) string { return sig(value(n), digits) }

// pValue follows the habit of medical journals: two digits, three decimals
// below 0.01, and a bound below 0.0001.
func pValue(n *json.Number) string {
	v := value(n)
	switch {
	case math.IsNaN(v):
		return "–"
	case v < 0.0001:
		return "< 0.0001"
	case v < 0.01:
		return sig(v, 2)
	default:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
}

func pSentence(n *json.Number) string {
	s := pValue(n)
	if strings.HasPrefix(s, "<") {
		return "p\u00a0" + strings.Replace(s, " ", "\u00a0", 1)
	}
	return "p\u00a0=\u00a0" + s
}

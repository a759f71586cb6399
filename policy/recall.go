package policy

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"sync"

	"consilium"
)

// maxAnswers is how many answers an engine remembers. A study takes one for each
// point that its hospital asks, and one more for every cohort that differs; transfers
// are not remembered. When full, all are forgotten.
const maxAnswers = 4096

// posed is an encoded question.
type posed struct {
	point  Point
	now    int64
	bytes  []byte
	digest consilium.Digest
	// key names all of it but the moment. It is zero where the bytes cannot be told
	// apart from the moment, and then nothing is remembered.
	key consilium.Digest
}

// pose encodes a question. It is not checked yet.
func (p *compiled) pose(point Point, in Input) (posed, *Decision) {
	b, err := in.encode(point)
	if err != nil {
		d := deny(point, CodeInput, "%v", err)
		return posed{}, &d
	}
	q := posed{point: point, now: in.Now, bytes: b}
	var bad *Decision
	if q.digest, bad = p.readable(point, b); bad != nil {
		return q, bad
	}
	if head, tail, ok := cutMoment(b, point, in.Now); ok {
		q.key = questionKey(point, head, tail)
	}
	return q, nil
}

// momentText is what an encoded question says of its moment, and, as what stands
// around it, of its point.
func momentText(point Point, now int64) []byte {
	return []byte(`"now":` + strconv.FormatInt(now, 10) + `,"point":"` + string(point) + `"`)
}

// cutMoment takes the moment out of an encoded question. Inside a JSON text a
// quotation mark is escaped, so that what is found are members; they must stand there
// once. A moment that the schema refuses is not taken out.
func cutMoment(b []byte, point Point, now int64) (head, tail []byte, ok bool) {
	text := momentText(point, now)
	head, tail, ok = bytes.Cut(b, text)
	return head, tail, ok && now >= 0 && !bytes.Contains(tail, text)
}

// questionKey names a question without its moment.
func questionKey(point Point, head, tail []byte) consilium.Digest {
	return consilium.DomainDecision.Digest([]byte("question"), []byte(point), head, tail)
}

// answered are the answers of one policy that hold for a while. They depend on
// nothing but the bundle, which a compiled policy never changes, the question and
// the moment.
type answered struct {
	mu   sync.Mutex
	list map[consilium.Digest]answeredOnce
}

type answeredOnce struct {
	decision Decision
	span     span
}

func (a *answered) find(q *posed) (Decision, bool) {
	if q.key.IsZero() {
		return Decision{}, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	have, ok := a.list[q.key]
	if !ok || !have.span.holds(q.now) {
		return Decision{}, false
	}
	return have.decision.clone(), true
}

func (a *answered) keep(q *posed, d Decision, s span) {
	if q.key.IsZero() || !s.holds(q.now) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.list == nil || len(a.list) >= maxAnswers {
		a.list = map[consilium.Digest]answeredOnce{}
	}
	a.list[q.key] = answeredOnce{d.clone(), s}
}

// recall finds what the rules said to the question before, if no comparison with
// the moment that they made has turned since. The same question at another moment has
// passed the schema.
func (p *compiled) recall(q *posed) (Decision, bool) {
	if q.now >= p.staleAt {
		return Decision{}, false
	}
	return p.answers.find(q)
}

// askFresh asks the rules and remembers their answer for as long as it holds.
func (e *Engine) askFresh(ctx context.Context, p *compiled, q *posed, doc map[string]any) (Decision, error) {
	query := p.watchedQuery()
	if query == nil || q.key.IsZero() {
		return e.evaluate(ctx, p, &p.query, q.point, doc)
	}
	w := &watch{q.now, allMoments}
	d, err := e.evaluate(watching(ctx, w), p, query, q.point, doc)
	if err == nil && !isFailure(d) {
		p.answers.keep(q, d, w.span)
	}
	return d, err
}

// DecideAgain is Decide for a question that is asked time and again, as in every
// round of a study. If the same question was asked of this policy before, and the
// rules have compared the moment with nothing that has turned since, the answer is
// that of then, and recalled says so. A policy that is replaced, a question that
// differs in one byte and a date that has passed are asked anew; what the rules failed
// at is never remembered. Like Decide it records nothing.
func (e *Engine) DecideAgain(ctx context.Context, point Point, in Input) (d Decision, recalled bool, err error) {
	if point == PointRows || !slices.Contains(Points(), point) {
		d, err = e.Decide(ctx, point, in)
		return d, false, err
	}
	p := e.p.Load()
	q, bad := p.pose(point, in)
	if bad != nil {
		return p.seal(*bad, q.digest), false, nil
	}
	if d, ok := p.recall(&q); ok {
		return p.seal(d, q.digest), true, ctx.Err()
	}
	doc, bad := p.check(point, q.bytes, q.now)
	if bad != nil {
		return p.seal(*bad, q.digest), false, nil
	}
	if d, err = e.askFresh(ctx, p, &q, doc); err != nil {
		return Decision{}, false, err
	}
	return p.seal(d, q.digest), false, nil
}

package coordinator

import "consilium"

// Rejection says why a command changed nothing. Its error is one of the
// sentinels of the root package, so it travels to the caller as it is.
type Rejection struct{ Err *consilium.Error }

func (r *Rejection) Error() string { return r.Err.Error() }

// Unwrap lets errors.Is find the sentinel.
func (r *Rejection) Unwrap() error { return r.Err }

// AsError is r as an error that is nil when r is.
func (r *Rejection) AsError() error {
	if r == nil {
		return nil
	}
	return r
}

func reject(e *consilium.Error, format string, args ...any) *Rejection {
	return &Rejection{e.Withf(format, args...)}
}

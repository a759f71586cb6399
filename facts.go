package consilium

// Facts is all that an analysis may know beyond its own specification: what
// the charter froze.
type Facts struct {
	Spec      *Spec
	Sites     []SiteID // by position
	MinCohort int      // k in force: the strictest of the study's and the policies'
	Permits   []string // named exceptions that the board granted, for example "km-tail"
}

// Permitted reports whether the board granted the named exception.
func (f Facts) Permitted(name string) bool {
	for _, p := range f.Permits {
		if p == name {
			return true
		}
	}
	return false
}

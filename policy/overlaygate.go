package policy

import "math/rand/v2"

// generate makes an arbitrary record with times near and far from now.
func generate(rng *rand.Rand, now int64) Record {
	when := func() int64 {
		switch rng.IntN(6) {
		case 0:
			return now
		case 1:
			return Never
		case 2:
			return 0
		case 3:
			return rng.Int64N(4_000_000_000)
		case 4:
			return now - 1 - rng.Int64N(1000)
		default:
			return now + 1 + rng.Int64N(1000)
		}
	}
	flag := func() bool { return rng.IntN(2) == 0 }
	pick := func(s ...string) string { return s[rng.IntN(len(s))] }
	some := func(s ...string) []string {
		out := []string{}
		for _, x := range s {
			if flag() {
				out = append(out, x)
			}
		}
		return out
	}
	return Record{
		Status: pick("none", "active", "active", "withdrawn"), Explicit: flag(), Evidence: flag(),
		Categories: some("general", "genetic", "mental"), Purposes: some("DUO:0000004", "DUO:0000006", "DUO:0000007", "DUO:0000042", "DUO:0000045", "DUO:0000015", "DUO:0000021", "DUO:0000044"),
		Area: pick("", "any", "MONDO:0018305", "MONDO:0003778"), ValidFrom: when(), ValidTo: when(), WithdrawnAt: when(), Objected: flag(),
		GivenBy: pick("none", "self", "self", "parent", "representative"), IsAdultNow: flag(), Deceased: flag(), MNObjected: flag(), Part2: flag(),
		Psychotherapy: flag(), CitizenOrLPR: flag(), WGBOObjected: flag(), HRAGeneral: flag(), HRAGenetic: flag(), HRAProject: flag(),
		HRAInformed: flag(), HRADissent: flag(), Part2Consent: flag(), NHSOptOut: flag(), OptedOutAt: when(),
	}
}

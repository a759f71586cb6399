package archive

import "consilium"

// VerifyRecord checks that a hospital's witnessed ledger holds the head of the
// trail in rec. The trail itself is verified by trail.Signed.Verify.
func VerifyRecord(rec *SiteRecord, site *consilium.Site, roster *consilium.Roster) error {
	return (&Summary{}).verifyAnchor(rec, site, roster)
}

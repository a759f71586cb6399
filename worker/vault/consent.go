package vault

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"consilium"
	"consilium/provenance"
)

// consentDir is where the hospital's consent desk keeps the signed documents;
// the vault only reads them.
func (v *Vault) consentDir() string { return ConsentDir(v.cfg.Dir) }

// ConsentDir is the consent store beside a vault's directory.
func ConsentDir(vaultDir string) string { return filepath.Join(filepath.Dir(vaultDir), "consents") }

// consentStore is the store as of one version of its files.
type consentStore struct {
	*provenance.Consents
	size    int64
	changed time.Time
}

// openConsents loads the consents, again when the desk has added to them, and
// holds them against the ledger. Without that no question is answered.
func (v *Vault) openConsents(site *consilium.Site, gate *provenance.Gate) error {
	var size int64
	var changed time.Time
	entries, err := os.ReadDir(v.consentDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		size += info.Size()
		if info.ModTime().After(changed) {
			changed = info.ModTime()
		}
	}
	if v.consents == nil || v.consents.size != size || !v.consents.changed.Equal(changed) {
		c, err := provenance.OpenConsents(provenance.ConsentConfig{Dir: v.consentDir(), KEK: v.cfg.KEK, Site: v.cfg.Site, Key: site.Key, Now: v.cfg.Now})
		if err != nil {
			return err
		}
		v.consents = &consentStore{c, size, changed}
	}
	return v.consents.Verify(gate)
}

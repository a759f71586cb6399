package provenance

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"consilium"
	"consilium/provenance/epcis"
)

// Streams become rows like any other, so that one ledger, one erasure and one
// receipt serve them: a sample is a row of its wearer, bound to the batch that
// the device signed; a supply-chain event is a row that holds GS1's hash of it.

// Record is how rows reach a ledger. The alias lets those who only pass rows
// on do so without Arrow.
type Record = arrow.Record

// PatientsOf lists whose each row of rec is.
func PatientsOf(rec Record) ([]Pseudonym, error) {
	rc, err := newRowCoder(rec)
	if err != nil {
		return nil, err
	}
	out := make([]Pseudonym, rc.rows)
	for r := range out {
		out[r] = rc.patientOf(r)
	}
	return out, nil
}

var digestColumn = &arrow.FixedSizeBinaryType{ByteWidth: 32}

var momentColumn = &arrow.TimestampType{Unit: arrow.Millisecond, TimeZone: "UTC"}

func idColumn(name string) arrow.Field {
	return arrow.Field{Name: name, Type: &arrow.FixedSizeBinaryType{ByteWidth: 16}}
}

var sampleSchema = arrow.NewSchema([]arrow.Field{
	idColumn(PatientColumn), idColumn("device"),
	{Name: "source", Type: digestColumn}, // of the device batch
	{Name: "time", Type: momentColumn},
	{Name: "code", Type: arrow.BinaryTypes.String},
	{Name: "value", Type: arrow.PrimitiveTypes.Float64},
	{Name: "unit", Type: arrow.BinaryTypes.String},
}, nil)

// Device is a wearable that the hospital handed out.
type Device struct {
	ID      ID
	Key     consilium.PublicKey
	Patient Pseudonym // who wears it
}

// Samples holds everything that arrived of the hospital's devices against
// their chains, and returns the samples that count as a record, by device and
// then in the order of measurement, and what is wrong.
func Samples(devices []Device, arrived []*SignedDeviceBatch) (arrow.Record, []DeviceFinding, error) {
	by := map[ID][]*SignedDeviceBatch{}
	for _, b := range arrived {
		by[b.Batch.Device] = append(by[b.Batch.Device], b)
	}
	sorted := slices.Clone(devices)
	slices.SortFunc(sorted, func(a, b Device) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	build := array.NewRecordBuilder(memory.DefaultAllocator, sampleSchema)
	defer build.Release()
	var findings []DeviceFinding
	for i, d := range sorted {
		if d.ID.IsZero() || d.Key.IsZero() || d.Patient.IsZero() || i > 0 && d.ID == sorted[i-1].ID {
			return nil, nil, consilium.ErrInvalid.Withf("device %s stands twice, or without key or wearer", d.ID)
		}
		good, wrong := CheckDevice(d.Key, by[d.ID])
		findings = append(findings, wrong...)
		delete(by, d.ID)
		for _, b := range good {
			source := b.Digest()
			for s := range b.Batch.Times {
				build.Field(0).(*array.FixedSizeBinaryBuilder).Append(d.Patient[:])
				build.Field(1).(*array.FixedSizeBinaryBuilder).Append(d.ID[:])
				build.Field(2).(*array.FixedSizeBinaryBuilder).Append(source[:])
				build.Field(3).(*array.TimestampBuilder).Append(arrow.Timestamp(b.Batch.Times[s]))
				build.Field(4).(*array.StringBuilder).Append(b.Batch.Code)
				build.Field(5).(*array.Float64Builder).Append(b.Batch.Values[s])
				build.Field(6).(*array.StringBuilder).Append(b.Batch.Unit)
			}
		}
	}
	for _, list := range by {
		for _, b := range list {
			findings = append(findings, DeviceFinding{DeviceUnknown, b.Batch.Device, b.Batch.Seq, b.Batch.Seq})
		}
	}
	slices.SortStableFunc(findings, func(a, b DeviceFinding) int {
		if c := bytes.Compare(a.Device[:], b.Device[:]); c != 0 {
			return c
		}
		return cmp.Compare(a.From, b.From)
	})
	return build.NewRecord(), findings, nil
}

var supplySchema = arrow.NewSchema([]arrow.Field{
	idColumn(PatientColumn), // names the event: nobody's
	{Name: "event", Type: digestColumn, Metadata: arrow.NewMetadata([]string{"code"}, []string{"CBV2.0 event hash, sha-256"})},
	{Name: "type", Type: arrow.BinaryTypes.String},
	{Name: "time", Type: momentColumn},
}, nil)

// SupplyEvents makes a record of supply-chain events, each once, by time. The
// hospital's pseudonym key names them, so that each has a salt of its own and
// a trading partner's reader learns nothing by guessing events.
func SupplyEvents(siteKey []byte, events []epcis.Event) (arrow.Record, error) {
	sorted := slices.Clone(events)
	slices.SortFunc(sorted, func(a, b epcis.Event) int {
		if c := a.Time.Compare(b.Time); c != 0 {
			return c
		}
		return cmp.Compare(a.Prehash, b.Prehash)
	})
	sorted = slices.CompactFunc(sorted, func(a, b epcis.Event) bool { return a.Prehash == b.Prehash })
	build := array.NewRecordBuilder(memory.DefaultAllocator, supplySchema)
	defer build.Release()
	for i := range sorted {
		d := sorted[i].Digest()
		p, err := NewPseudonym(siteKey, "supply-chain event\x00"+sorted[i].Hash())
		if err != nil {
			return nil, err
		}
		build.Field(0).(*array.FixedSizeBinaryBuilder).Append(p[:])
		build.Field(1).(*array.FixedSizeBinaryBuilder).Append(d[:])
		build.Field(2).(*array.StringBuilder).Append(sorted[i].Type)
		build.Field(3).(*array.TimestampBuilder).Append(arrow.Timestamp(sorted[i].Time.UnixMilli()))
	}
	return build.NewRecord(), nil
}

// SelectRows copies the rows of rec for which keep holds. Anchoring a stream
// takes what is new into one batch, wherever it stands.
func SelectRows(rec arrow.Record, keep []bool) (arrow.Record, error) {
	if int64(len(keep)) != rec.NumRows() {
		return nil, consilium.ErrInvalid.Withf("%d marks for %d rows", len(keep), rec.NumRows())
	}
	var parts []arrow.Record
	for from := 0; from < len(keep); {
		if !keep[from] {
			from++
			continue
		}
		to := from
		for to < len(keep) && keep[to] {
			to++
		}
		parts = append(parts, rec.NewSlice(int64(from), int64(to)))
		from = to
	}
	cols := make([]arrow.Array, rec.NumCols())
	rows := int64(0)
	for i := range cols {
		list := make([]arrow.Array, len(parts))
		for k, p := range parts {
			list[k] = p.Column(i)
		}
		if len(list) == 0 {
			list = append(list, rec.NewSlice(0, 0).Column(i))
		}
		var err error
		if cols[i], err = array.Concatenate(list, memory.DefaultAllocator); err != nil {
			return nil, consilium.ErrData.With(err)
		}
		rows = int64(cols[i].Len())
	}
	return array.NewRecord(rec.Schema(), cols, rows), nil
}

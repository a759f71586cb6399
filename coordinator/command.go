package coordinator

import (
	"fmt"

	"consilium"
)

// Command is one entry of the replicated log. At is the proposer's clock in
// Unix milliseconds; the state's clock is the largest At it accepted.
type Command struct {
	At int64
	Op Op
}

// Op is what a command does: *Tick, *RosterSet, *Post, *Decide, *RecordSum or
// *Collect.
type Op interface {
	opKind() uint8
	walk(c *codec)
}

// Tick lets due deadlines happen. It carries nothing but the command's time,
// and can end or delay things, never permit one.
type Tick struct{}

// RosterSet puts a roster in force. The shell verified the board's signatures
// before it proposed the command; apply checks that the version follows.
type RosterSet struct{ Payload []byte }

// Post is a member's signed message. The shell verified the signature and the
// role of its author; apply checks everything else.
type Post struct {
	Message []byte   // an encoded consilium.Message
	Upload  *Upload  // exactly for a header
	Blob    *BlobRef // exactly for a sealed state and a publication
}

// Upload says where a contribution's bytes are, durable on a majority of
// nodes before the command is proposed, and with which parameter set its
// vector was encrypted.
type Upload struct {
	Ciphertext BlobRef
	Boxes      BlobRef // the sealed boxes of all positions, concatenated in order
	LogN, Bits uint8
	Capacity   uint16 // contributions that the parameter set can sum
	Lanes      uint64 // of the vector, without tags
}

// BlobRef names a blob as internal/blob does.
type BlobRef struct {
	Digest consilium.Digest
	Size   uint64 // in bytes
}

// Decide is the leader's advisory policy decision on an approved study.
// Hospitals decide again.
type Decide struct {
	Study  consilium.StudyID
	Allow  bool
	Record []byte // the decision record, JSON
}

// RecordSum says that a majority of nodes holds the sum over a certified set.
type RecordSum struct {
	Study consilium.StudyID
	Set   consilium.Digest
	Blob  BlobRef
}

// Collect forgets blobs that no live study needs. When it is accepted, every
// node deletes its copies.
type Collect struct{ Blobs []consilium.Digest }

// MaxCollect bounds the blobs of one Collect.
const MaxCollect = 1024

const (
	opTick      uint8 = 1
	opRoster    uint8 = 2
	opPost      uint8 = 3
	opDecide    uint8 = 4
	opRecordSum uint8 = 5
	opCollect   uint8 = 6
)

func (*Tick) opKind() uint8      { return opTick }
func (*RosterSet) opKind() uint8 { return opRoster }
func (*Post) opKind() uint8      { return opPost }
func (*Decide) opKind() uint8    { return opDecide }
func (*RecordSum) opKind() uint8 { return opRecordSum }
func (*Collect) opKind() uint8   { return opCollect }

func (*Tick) walk(*codec)          {}
func (o *RosterSet) walk(c *codec) { c.bytes(&o.Payload) }

func (o *Post) walk(c *codec) {
	c.bytes(&o.Message)
	if c.present(o.Upload != nil) {
		if o.Upload == nil {
			o.Upload = &Upload{}
		}
		o.Upload.walk(c)
	}
	if c.present(o.Blob != nil) {
		if o.Blob == nil {
			o.Blob = &BlobRef{}
		}
		o.Blob.walk(c)
	}
}

func (u *Upload) walk(c *codec) {
	u.Ciphertext.walk(c)
	u.Boxes.walk(c)
	c.u8(&u.LogN)
	c.u8(&u.Bits)
	c.u16(&u.Capacity)
	c.u64(&u.Lanes)
}

func (b *BlobRef) walk(c *codec) {
	c.digest(&b.Digest)
	c.u64(&b.Size)
}

func (o *Decide) walk(c *codec) {
	text(c, &o.Study)
	c.bool(&o.Allow)
	c.bytes(&o.Record)
}

func (o *RecordSum) walk(c *codec) {
	text(c, &o.Study)
	c.digest(&o.Set)
	o.Blob.walk(c)
}

func (o *Collect) walk(c *codec) { list(c, &o.Blobs, (*codec).digest) }

// commandVersion is the version of the encoding of commands. Nodes of
// different releases replay each other's logs.
const commandVersion = 1

// EncodeCommand is the command's one encoding.
func EncodeCommand(cmd Command) []byte {
	c := &codec{write: true}
	version, kind := uint8(commandVersion), cmd.Op.opKind()
	c.u8(&version)
	c.u8(&kind)
	c.i64(&cmd.At)
	cmd.Op.walk(c)
	return c.b
}

// DecodeCommand is the inverse of EncodeCommand. It accepts nothing else.
func DecodeCommand(b []byte) (Command, error) {
	c := &codec{b: b}
	var version, kind uint8
	var cmd Command
	c.u8(&version)
	c.u8(&kind)
	c.i64(&cmd.At)
	if c.err == nil && version != commandVersion {
		return Command{}, fmt.Errorf("command of version %d, this software reads %d", version, commandVersion)
	}
	switch kind {
	case opTick:
		cmd.Op = &Tick{}
	case opRoster:
		cmd.Op = &RosterSet{}
	case opPost:
		cmd.Op = &Post{}
	case opDecide:
		cmd.Op = &Decide{}
	case opRecordSum:
		cmd.Op = &RecordSum{}
	case opCollect:
		cmd.Op = &Collect{}
	default:
		return Command{}, fmt.Errorf("command of unknown kind %d", kind)
	}
	cmd.Op.walk(c)
	if err := c.done(); err != nil {
		return Command{}, fmt.Errorf("command: %w", err)
	}
	return cmd, nil
}

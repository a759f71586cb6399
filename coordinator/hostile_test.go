package coordinator

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"consilium"
	"consilium/api/v1"
	"consilium/internal/durable"
	"consilium/internal/wire"
)

// mayCall is who may call what, written out once more for the nodes themselves
// (internal/wire has the table that is enforced).
var mayCall = map[string][]string{
	"StudyService/Submit": {"researcher", "board"}, "StudyService/List": {"site", "researcher", "board"}, "StudyService/Status": {"site", "researcher", "board"},
	"StudyService/Follow": {"researcher", "board"}, "StudyService/Fetch": {"researcher", "board"},
	"SiteService/Post": {"site"}, "SiteService/Upload": {"site"}, "SiteService/Follow": {"site"}, "SiteService/Fetch": {"site"}, "SiteService/PutBlob": {"site"},
	"PeerService/Hello": {"coordinator"}, "PeerService/Store": {"coordinator"}, "PeerService/Load": {"coordinator"}, "PeerService/Holds": {"coordinator"},
	"AuditService/Checkpoint": {"site", "researcher", "board", "coordinator", "auditor"}, "AuditService/Tile": {"site", "researcher", "board", "coordinator", "auditor"},
	"AuditService/Inclusion":   {"site", "researcher", "board", "coordinator", "auditor"},
	"AuditService/Consistency": {"site", "researcher", "board", "coordinator", "auditor"}, "AuditService/Entries": {"board", "coordinator", "auditor"},
}

type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (rawCodec) Unmarshal(b []byte, v any) error { *(v.(*[]byte)) = bytes.Clone(b); return nil }
func (rawCodec) Name() string                    { return "proto" }

// send calls a method with messages of raw bytes and returns how it ended.
func send(ctx context.Context, cc *grpc.ClientConn, method string, msgs [][]byte, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	ss, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, grpc.ForceCodec(rawCodec{}))
	if err != nil {
		return wire.FromStatus(err)
	}
	for _, b := range msgs {
		if err := ss.SendMsg(b); err != nil {
			break
		}
	}
	ss.CloseSend()
	var out []byte
	if err = ss.RecvMsg(&out); err == io.EOF {
		return nil
	}
	return wire.FromStatus(err)
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// TestHostileClients lets every role call every method of running nodes: with
// noise, with torn and oversized messages, and with statements that are somebody
// else's or forged. What the role may not call is refused; the state of the cluster stays byte for byte as it was, and every node
// lives.
func TestHostileClients(t *testing.T) {
	c := newCluster(t, 3, 3, true, false)
	log := &lockedBuffer{}
	c.log = slog.New(slog.NewTextHandler(log, nil))
	ctx := limit(t, 5*time.Minute)
	c.runAll()
	p := c.proposal("one")
	c.submit(ctx, p)
	c.settle(ctx, 4)
	lead := c.leader(ctx)
	snapshot := func(n *Node) (b []byte) {
		n.fsm.read(func(*State) {})
		n.fsm.mu.Lock()
		defer n.fsm.mu.Unlock()
		return n.fsm.state.Snapshot()
	}
	before := snapshot(lead)

	encode := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	rng := rand.New(rand.NewPCG(3, 4))
	noise := func(k int) []byte {
		b := make([]byte, k)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	forged := *p.submission // another's statement, its signature broken
	forged.Body = append(bytes.Clone(forged.Body), ' ')
	cancel := c.sign("researcher/rivals", consilium.KindCancel, p.id, (&consilium.Cancel{Study: p.id, Reason: "not ours"}).Encode())
	posing := *cancel
	posing.By = "team"
	vote := c.sign("site/h01", consilium.KindVote, p.id, (&consilium.Vote{At: consilium.At{Charter: dig("x"), Round: 1, Attempt: 1, Position: 1}, Set: dig("y")}).Encode())
	approval := *p.approvals[0]
	approval.By = "board/ethics-9"
	var bodies [][][]byte
	for _, m := range []*consilium.Message{&forged, cancel, &posing, vote, &approval} {
		bodies = append(bodies, [][]byte{encode(&apiv1.SubmitRequest{Message: m.Encode()})}, [][]byte{encode(&apiv1.PostRequest{Message: m.Encode()})})
	}
	start := encode(&apiv1.PutBlobRequest{Part: &apiv1.PutBlobRequest_Start{Start: &apiv1.BlobStart{Size: 1 << 39, Digest: make([]byte, 32)}}})
	other := encode(&apiv1.PutBlobRequest{Part: &apiv1.PutBlobRequest_Start{Start: &apiv1.BlobStart{Size: 3, Digest: bytes.Repeat([]byte{7}, 32)}}})
	chunk := encode(&apiv1.PutBlobRequest{Part: &apiv1.PutBlobRequest_Chunk{Chunk: &apiv1.Chunk{Data: []byte("abc")}}})
	upload := encode(&apiv1.UploadRequest{Part: &apiv1.UploadRequest_Start{Start: &apiv1.UploadStart{Message: vote.Encode(), Boxes: 1 << 31, BoxSize: 1 << 31, Size: 1 << 62, Bits: 1, Lanes: 1 << 60}}})
	bodies = append(bodies, [][]byte{{}}, [][]byte{noise(1)}, [][]byte{noise(3000)}, [][]byte{start}, [][]byte{start[:7]}, [][]byte{other, chunk}, [][]byte{other, chunk, chunk},
		[][]byte{upload}, [][]byte{upload, upload}, [][]byte{bytes.Repeat([]byte{0xff}, 64)}, [][]byte{make([]byte, 3<<20)})

	calls := 0
	for _, who := range []string{"site/h01", "researcher/rivals", "board/ethics-1", "coordinator/c2", "auditor/eve"} {
		if who == "coordinator/"+string(lead.ID()) {
			who = "coordinator/c1"
		}
		role, _, _ := strings.Cut(who, "/")
		me, _ := c.roster.Coordinator(lead.ID())
		cc, err := grpc.NewClient("passthrough:///"+me.Address, grpc.WithTransportCredentials(credentials.NewTLS(wire.ClientConfig(c.certs[who], c.book(), lead.ID()))),
			grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return c.net.Dial(ctx, address) }))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range []protoreflect.FileDescriptor{apiv1.File_study_proto, apiv1.File_site_proto, apiv1.File_peer_proto, apiv1.File_audit_proto} {
			for i := range file.Services().Len() {
				service := file.Services().Get(i)
				for k := range service.Methods().Len() {
					m := service.Methods().Get(k)
					name := string(service.Name()) + "/" + string(m.Name())
					roles, listed := mayCall[name]
					if !listed {
						t.Fatalf("%s is not in the table", name)
					}
					allowed := slices.Contains(roles, role)
					for _, msgs := range bodies {
						if !m.IsStreamingClient() {
							msgs = msgs[:1]
						}
						if strings.HasSuffix(name, "Follow") && allowed && calls%7 != 0 {
							calls++
							continue // each may wait for events that never come
						}
						wait := 30 * time.Second // a refusal comes
						if allowed {
							wait = 400 * time.Millisecond // an endless stream is left
						}
						err := send(ctx, cc, "/"+string(service.FullName())+"/"+string(m.Name()), msgs, wait)
						calls++
						forbidden := errors.Is(err, consilium.ErrForbidden)
						switch {
						case !allowed && !forbidden && (err == nil || !strings.Contains(err.Error(), "failed to unmarshal") && !errors.Is(err, consilium.ErrTooLarge)):
							// gRPC reads and decodes the request of a unary call before anybody is asked.
							t.Errorf("%s as %s: %v", name, who, err)
						case allowed && forbidden && len(msgs[0]) == 0:
							t.Errorf("%s is closed to %s: %v", name, who, err)
						}
					}
				}
			}
		}
		cc.Close()
	}
	t.Logf("%d calls", calls)
	if after := snapshot(lead); !bytes.Equal(before, after) {
		t.Error("hostile clients changed the state")
	}
	for _, n := range c.alive() {
		if err := n.broken(); err != nil || n.halt.Err() != nil {
			t.Errorf("%s: %v, %v", n.ID(), err, context.Cause(n.halt))
		}
		if _, err := c.client("researcher/team", n.ID()).Status(ctx, p.id); err != nil {
			t.Errorf("%s does not answer any more: %v", n.ID(), err)
		}
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	if strings.Contains(log.b.String(), "panic") {
		t.Errorf("a call panicked:\n%s", log.b.String())
	}
}

// TestForkedNodeStops: a node whose audit log is not the tree of its state
// stops and says so, whether its state or its disk is at fault. The others go
// on.
func TestForkedNodeStops(t *testing.T) {
	for name, fork := range map[string]func(c *cluster, n *Node){
		"its state has another tree": func(c *cluster, n *Node) {
			n.fsm.mu.Lock()
			n.fsm.state.edge = slices.Clone(n.fsm.state.edge)
			n.fsm.state.edge[0][0] ^= 1
			n.fsm.mu.Unlock()
		},
		"its disk has another event": func(c *cluster, n *Node) {
			id, path := n.ID(), n.dir.Join("events.log")
			c.kill(id)
			b, err := os.ReadFile(path)
			if err != nil {
				c.t.Fatal(err)
			}
			l, err := openEvents(durable.OS, "")
			if err != nil {
				c.t.Fatal(err)
			}
			ev, err := consilium.ParseEvent(b[eventHeader : eventHeader+int(uint32(b[0])<<24|uint32(b[1])<<16|uint32(b[2])<<8|uint32(b[3]))])
			if err != nil {
				c.t.Fatal(err)
			}
			ev.Time++ // with a checksum that is right
			rest := b[eventHeader+len(ev.Encode()):]
			l.close()
			forged, err := openEvents(durable.OS, path+".new")
			if err != nil {
				c.t.Fatal(err)
			}
			if err := errors.Join(forged.append([]consilium.Event{*ev}), forged.close()); err != nil {
				c.t.Fatal(err)
			}
			head, err := os.ReadFile(path + ".new")
			if err != nil {
				c.t.Fatal(err)
			}
			if err := errors.Join(os.WriteFile(path, append(head, rest...), 0o600), os.Remove(path+".new")); err != nil {
				c.t.Fatal(err)
			}
			c.run(id)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 3, 3, false, false)
			ctx := limit(t, 5*time.Minute)
			c.runAll()
			c.submit(ctx, c.proposal("one"))
			c.settle(ctx, 3)
			lead := c.leader(ctx)
			var victim *Node
			for _, n := range c.alive() {
				if n != lead {
					victim = n
				}
			}
			fork(c, victim)
			c.submit(ctx, c.proposal("two"))
			c.mu.Lock()
			ended := c.ended[victim.ID()]
			delete(c.nodes, victim.ID())
			c.mu.Unlock()
			select {
			case err := <-ended:
				if err == nil || !strings.Contains(err.Error(), "audit log") && !strings.Contains(err.Error(), "differs from the one recorded") {
					t.Errorf("it ended with %v", err)
				}
				t.Log(err)
			case <-ctx.Done():
				t.Fatal("it goes on")
			}
			c.submit(ctx, c.proposal("three"))
			c.settle(ctx, 6)
		})
	}
}

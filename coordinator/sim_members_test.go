package coordinator

import (
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"consilium"
)

// Changes of members in the simulated log, as hashicorp/raft makes them: one
// server at a time (Ongaro, Consensus: Bridging Theory and Practice, §4.1), each in
// force as soon as it is in a log and gone if it is overwritten there, the next only
// once the one before is committed and the leader has committed something of its
// own term.

// simConf is who is in the cluster from a log index on.
type simConf struct {
	index   uint64
	servers []raft.Server
}

// conf is the last configuration in the log, committed or not, and its index.
func (d *simDisk) conf() ([]raft.Server, uint64) {
	if len(d.confs) == 0 {
		return nil, 0
	}
	last := d.confs[len(d.confs)-1]
	return last.servers, last.index
}

func (d *simDisk) append(entries ...simEntry) {
	for _, e := range entries {
		d.log = append(d.log, e)
		if e.kind == raft.LogConfiguration {
			d.confs = append(d.confs, simConf{d.last(), e.conf})
		}
	}
}

// truncate drops the entries after an index.
func (d *simDisk) truncate(last uint64) {
	d.log = d.log[:last-d.base]
	for len(d.confs) > 0 && d.confs[len(d.confs)-1].index > last {
		d.confs = d.confs[:len(d.confs)-1]
	}
}

// bootstrap forms the cluster, on every disk alike.
func (c *simLog) bootstrap(servers []raft.Server) {
	for _, s := range servers {
		d := c.disks[nodeOf(s.ID)]
		d.term = 1
		d.append(simEntry{term: 1, kind: raft.LogConfiguration, conf: servers})
	}
}

// votes reports whether a server votes in a configuration.
func votes(conf []raft.Server, id raft.ServerID) bool {
	return slices.ContainsFunc(conf, func(s raft.Server) bool { return s.ID == id && s.Suffrage == raft.Voter })
}

// majority reports whether something holds for a majority of the voters that a
// node knows.
func (r *simRaft) majority(holds func(consilium.NodeID) bool) bool {
	conf, _ := r.disk.conf()
	voters, n := 0, 0
	for _, s := range conf {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if holds(nodeOf(s.ID)) {
			n++
		}
	}
	return 2*n > voters
}

func (r *simRaft) GetConfiguration() raft.ConfigurationFuture {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	conf, _ := r.disk.conf()
	f := newSimFuture() // without an index, as Raft's own
	f.resolve(nil, nil)
	return simConfiguration{f, raft.Configuration{Servers: slices.Clone(conf)}}
}

var (
	errSimMoved  = errors.New("the configuration has changed since")
	errSimChange = errors.New("the change before this one is not committed")
)

// change proposes the next configuration.
func (r *simRaft) change(prev uint64, next func([]raft.Server) []raft.Server) raft.IndexFuture {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	conf, index := r.disk.conf()
	switch {
	case r.role == raft.Shutdown:
		return failed(raft.ErrRaftShutdown)
	case r.role != raft.Leader:
		return failed(raft.ErrNotLeader)
	case index > r.commit || r.disk.termAt(r.commit) != r.disk.term:
		return failed(errSimChange)
	case prev > 0 && prev != index:
		return failed(errSimMoved)
	}
	f := r.append(simEntry{term: r.disk.term, kind: raft.LogConfiguration, conf: next(slices.Clone(conf))})
	r.count() // of one voter one is a majority
	return f
}

func (r *simRaft) AddVoter(id raft.ServerID, address raft.ServerAddress, prev uint64, _ time.Duration) raft.IndexFuture {
	return r.change(prev, func(conf []raft.Server) []raft.Server {
		conf = slices.DeleteFunc(conf, func(s raft.Server) bool { return s.ID == id })
		return append(conf, raft.Server{ID: id, Address: address, Suffrage: raft.Voter})
	})
}

func (r *simRaft) AddNonvoter(id raft.ServerID, address raft.ServerAddress, prev uint64, _ time.Duration) raft.IndexFuture {
	return r.change(prev, func(conf []raft.Server) []raft.Server {
		if slices.ContainsFunc(conf, func(s raft.Server) bool { return s.ID == id }) {
			return conf
		}
		return append(conf, raft.Server{ID: id, Address: address, Suffrage: raft.Nonvoter})
	})
}

func (r *simRaft) RemoveServer(id raft.ServerID, prev uint64, _ time.Duration) raft.IndexFuture {
	return r.change(prev, func(conf []raft.Server) []raft.Server {
		return slices.DeleteFunc(conf, func(s raft.Server) bool { return s.ID == id })
	})
}

// LeadershipTransfer lets a voter that has the whole log stand for election now.
func (r *simRaft) LeadershipTransfer() raft.Future {
	return r.transfer(func(raft.ServerID) bool { return true })
}

// LeadershipTransferToServer lets the named one, if it has.
func (r *simRaft) LeadershipTransferToServer(to raft.ServerID, _ raft.ServerAddress) raft.Future {
	return r.transfer(func(id raft.ServerID) bool { return id == to })
}

func (r *simRaft) transfer(wanted func(raft.ServerID) bool) raft.Future {
	r.c.mu.Lock()
	conf, _ := r.disk.conf()
	var heir consilium.NodeID
	for _, s := range conf {
		id := nodeOf(s.ID)
		if s.Suffrage == raft.Voter && id != r.id && wanted(s.ID) && r.match[id] == r.disk.last() && r.c.linked(r.id, id) && r.c.up[id].self == s.ID {
			heir = id
			break
		}
	}
	leads := r.role == raft.Leader
	r.c.mu.Unlock()
	switch {
	case !leads:
		return failed(raft.ErrNotLeader)
	case heir == "" || !r.c.elect(heir):
		return failed(errors.New("nobody has the whole log"))
	}
	return failed(nil)
}

package storage

import (
	"log/slog"
	"reflect"
	"time"
	"unsafe"

	"go.etcd.io/etcd/server/v3/etcdserver"
)

// idleTick replaces tickMs once a member without peers leads: no heartbeat is
// due to anybody and nobody can contest the lead, but a tick of 10 ms wakes
// the process 200 times a second, 0.6 % of a core.
const idleTick = time.Second

// slowTicks resets the ticker of server's raft node, if it can.
func slowTicks(server *etcdserver.EtcdServer) bool {
	pace := tickPacer(server)
	if pace == nil {
		return false
	}
	pace(idleTick)
	return true
}

// tickPacer resets the ticker of server's raft node. etcd has no way to ask
// for that, so it is found by reflection in the unexported fields r.ticker;
// nil: they are no longer there, and the ticks stay as they are.
func tickPacer(server *etcdserver.EtcdServer) func(time.Duration) {
	ticker := reflect.ValueOf(server).Elem().FieldByName("r")
	if ticker.IsValid() && ticker.Kind() == reflect.Struct {
		ticker = ticker.FieldByName("ticker")
	}
	if !ticker.IsValid() || ticker.Type() != reflect.TypeFor[*time.Ticker]() || ticker.IsNil() {
		slog.Warn("etcd's raft ticker not found: it ticks as at the start")
		return nil
	}
	return (*(**time.Ticker)(unsafe.Pointer(ticker.UnsafeAddr()))).Reset
}

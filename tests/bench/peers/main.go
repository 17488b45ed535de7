// Command peer_load puts a load on a running peer of Tocsin, by the peer's own client, and prints
// one line of JSON.
//
//	peer_load nats|redis|kafka|rabbitmq CASE -address HOST:PORT [flags]
//
//	settled     publish -> handler -> acknowledged, as fast as a window allows
//	drain       the same of what was stored before any consumer came
//	roundtrip   one publish in flight; the time until it is answered
//	paced       an open loop: the time from when each publish was due to its handler
//	fanout      each event to `-groups` consumers, until all have acknowledged
//	fill        stored, consumed by nobody
//	first       tries until a publish is answered; when that was, in ns of the wall clock
package main

import (
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// What a case asks for.
type load struct {
	address string
	name    string // of the stream, topic or queue; new for each run, but in fill and first
	events  int
	bytes   int
	window  int // publishes under way
	rate    float64
	groups  int
	publish string // nats: async, fast
	consume string // nats: pull, push
	ack     string // nats: explicit, all
	latency bool   // kafka: what is asked for is latency, so batches do not wait to fill
}

// A handler sees each event once; its return is the acknowledgement.
type handler func(data []byte)

// One connection that publishes.
type publisher interface {
	send(data []byte) error // goes on while the window has room
	push() error            // hands over what was sent so far; nothing is held back
	flush() error           // until all are answered
	call(data []byte) error // sent and answered
	close()
}

// One connection per group that consumes.
type consumer interface {
	settled() error // until every acknowledgement is taken
	close()
}

type peer interface {
	setup(groups int) error // the stream and what each group needs; nothing is consumed yet
	publisher() (publisher, error)
	consumer(group int, each handler) (consumer, error)
	remove()
}

var peers = map[string]func(load) (peer, error){
	"nats": newNats, "redis": newRedis, "kafka": newKafka, "rabbitmq": newRabbit,
}

func seconds(of time.Duration) float64 { return float64(of.Nanoseconds()) / 1e9 }

func percentiles(all []time.Duration) map[string]any {
	sort.Slice(all, func(a, b int) bool { return all[a] < all[b] })
	at := func(share float64) float64 {
		return float64(all[int(share*float64(len(all)-1))].Nanoseconds()) / 1e3
	}
	return map[string]any{"count": len(all), "p50_us": at(0.5), "p90_us": at(0.9),
		"p99_us": at(0.99), "p999_us": at(0.999), "max_us": at(1)}
}

// Counts what handlers saw.
type counting struct {
	seen   atomic.Int64
	wanted int64
	all    chan struct{}
}

func newCounting(wanted int) *counting {
	return &counting{wanted: int64(wanted), all: make(chan struct{})}
}

func (c *counting) one([]byte) {
	if c.seen.Add(1) == c.wanted {
		close(c.all)
	}
}

func (c *counting) wait() error {
	select {
	case <-c.all:
		return nil
	case <-time.After(5 * time.Minute):
		return fmt.Errorf("%d of %d events reached a handler", c.seen.Load(), c.wanted)
	}
}

func sendAll(to publisher, data []byte, count int) error {
	for range count {
		if err := to.send(data); err != nil {
			return err
		}
	}
	return to.flush()
}

// Events to all groups; with `stored`, consumers come after the last publish.
func settled(p peer, l load, stored bool) (map[string]any, error) {
	if err := p.setup(l.groups); err != nil {
		return nil, err
	}
	defer p.remove()
	to, err := p.publisher()
	if err != nil {
		return nil, err
	}
	defer to.close()
	data := make([]byte, l.bytes)
	warm := l.events / 10
	if stored {
		warm = 0
		if err := sendAll(to, data, l.events); err != nil {
			return nil, err
		}
	}
	warmed := newCounting(max(warm*l.groups, 1))
	count := newCounting(l.events * l.groups)
	var each atomic.Pointer[counting]
	each.Store(warmed)
	if warm == 0 {
		each.Store(count)
	}
	begin := time.Now()
	consumers := make([]consumer, 0, l.groups)
	for group := range l.groups {
		one, err := p.consumer(group, func(data []byte) { each.Load().one(data) })
		if err != nil {
			return nil, err
		}
		defer one.close()
		consumers = append(consumers, one)
	}
	if warm > 0 {
		if err := sendAll(to, data, warm); err != nil {
			return nil, err
		}
		if err := warmed.wait(); err != nil {
			return nil, err
		}
		each.Store(count)
		begin = time.Now()
	}
	published := 0.0
	if !stored {
		if err := sendAll(to, data, l.events); err != nil {
			return nil, err
		}
		published = seconds(time.Since(begin))
	}
	if err := count.wait(); err != nil {
		return nil, err
	}
	for _, one := range consumers {
		if err := one.settled(); err != nil {
			return nil, err
		}
	}
	took := seconds(time.Since(begin))
	if count.seen.Load() != count.wanted {
		return nil, fmt.Errorf("%d deliveries of %d", count.seen.Load(), count.wanted)
	}
	return map[string]any{"seconds": took, "publish_seconds": published,
		"per_second": float64(count.wanted) / took}, nil
}

func roundTrips(p peer, l load) (map[string]any, error) {
	if err := p.setup(1); err != nil {
		return nil, err
	}
	defer p.remove()
	to, err := p.publisher()
	if err != nil {
		return nil, err
	}
	defer to.close()
	data := make([]byte, l.bytes)
	trips := make([]time.Duration, 0, l.events)
	for i := range l.events + l.events/5 {
		begin := time.Now()
		if err := to.call(data); err != nil {
			return nil, err
		}
		if i >= l.events/5 {
			trips = append(trips, time.Since(begin))
		}
	}
	return percentiles(trips), nil
}

func paced(p peer, l load) (map[string]any, error) {
	if err := p.setup(1); err != nil {
		return nil, err
	}
	defer p.remove()
	to, err := p.publisher()
	if err != nil {
		return nil, err
	}
	defer to.close()
	start := time.Now()
	warm := l.events / 5
	count := newCounting(l.events + warm)
	var mutex sync.Mutex
	latencies := make([]time.Duration, 0, l.events+warm)
	from, err := p.consumer(0, func(data []byte) {
		due := time.Duration(binary.LittleEndian.Uint64(data))
		late := time.Since(start) - due
		mutex.Lock()
		latencies = append(latencies, late)
		mutex.Unlock()
		count.one(data)
	})
	if err != nil {
		return nil, err
	}
	defer from.close()
	// The runtime's timers round up to a millisecond; the thread's own do not.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin := time.Since(start) + time.Millisecond
	for i := range l.events + warm {
		due := begin + time.Duration(float64(i)/l.rate*1e9)
		if left := due - time.Since(start); left > 0 {
			if err := to.push(); err != nil {
				return nil, err
			}
			rest := syscall.NsecToTimespec((due - time.Since(start)).Nanoseconds())
			if rest.Nsec > 0 || rest.Sec > 0 {
				_ = syscall.Nanosleep(&rest, nil)
			}
		}
		data := make([]byte, l.bytes)
		binary.LittleEndian.PutUint64(data, uint64(due))
		if err := to.send(data); err != nil {
			return nil, err
		}
	}
	if err := to.flush(); err != nil {
		return nil, err
	}
	if err := count.wait(); err != nil {
		return nil, err
	}
	mutex.Lock()
	defer mutex.Unlock()
	return percentiles(latencies[warm:]), nil
}

func fill(p peer, l load) (map[string]any, error) {
	if err := p.setup(1); err != nil {
		return nil, err
	}
	to, err := p.publisher()
	if err != nil {
		return nil, err
	}
	defer to.close()
	begin := time.Now()
	if err := sendAll(to, make([]byte, l.bytes), l.events); err != nil {
		return nil, err
	}
	took := seconds(time.Since(begin))
	return map[string]any{"seconds": took, "per_second": float64(l.events) / took}, nil
}

func first(make_ func(load) (peer, error), l load) (map[string]any, error) {
	data := make([]byte, l.bytes)
	try := func() error {
		p, err := make_(l)
		if err != nil {
			return err
		}
		to, err := p.publisher()
		if err != nil {
			return err
		}
		defer to.close()
		return to.call(data)
	}
	fmt.Println("ready")
	rest := syscall.NsecToTimespec(1e6)
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); {
		if try() == nil {
			return map[string]any{"answered_ns": time.Now().UnixNano()}, nil
		}
		_ = syscall.Nanosleep(&rest, nil)
	}
	return nil, fmt.Errorf("no publish was answered")
}

func run(kind, what string, l load) (map[string]any, error) {
	make_, known := peers[kind]
	if !known {
		return nil, fmt.Errorf("no peer %q", kind)
	}
	if what == "first" {
		return first(make_, l)
	}
	l.latency = what == "roundtrip" || what == "paced"
	p, err := make_(l)
	if err != nil {
		return nil, err
	}
	switch what {
	case "settled":
		l.groups = 1
		return settled(p, l, false)
	case "drain":
		l.groups = 1
		return settled(p, l, true)
	case "fanout":
		return settled(p, l, false)
	case "roundtrip":
		return roundTrips(p, l)
	case "paced":
		return paced(p, l)
	case "fill":
		return fill(p, l)
	}
	return nil, fmt.Errorf("no case %q", what)
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: peer_load PEER CASE -address HOST:PORT [flags]")
		os.Exit(2)
	}
	var l load
	flags := flag.NewFlagSet("peer_load", flag.ExitOnError)
	flags.StringVar(&l.address, "address", "", "of the server")
	flags.StringVar(&l.name, "name", "bench", "of the stream, topic or queue")
	flags.IntVar(&l.events, "events", 100000, "to publish")
	flags.IntVar(&l.bytes, "bytes", 1024, "of each event's payload")
	flags.IntVar(&l.window, "window", 8192, "publishes under way")
	flags.Float64Var(&l.rate, "rate", 10000, "of an open loop")
	flags.IntVar(&l.groups, "groups", 100, "of a fan-out")
	flags.StringVar(&l.publish, "publish", "async", "nats: async or fast")
	flags.StringVar(&l.consume, "consume", "pull", "nats: pull or push")
	flags.StringVar(&l.ack, "ack", "explicit", "nats: explicit or all")
	_ = flags.Parse(os.Args[3:])
	result, err := run(os.Args[1], os.Args[2], l)
	if err != nil {
		fmt.Fprintf(os.Stderr, "peer_load %s %s: %v\n", os.Args[1], os.Args[2], err)
		os.Exit(1)
	}
	line, _ := json.Marshal(result)
	fmt.Println(string(line))
}

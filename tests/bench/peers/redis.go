package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

const (
	redisReadCount = 1000
	redisBuffer    = 256 * 1024
)

// Redis Streams by pipelined commands: no client library is between, so none is in the way. One
// stream, one consumer group per group.
type redisPeer struct{ l load }

func newRedis(l load) (peer, error) { return &redisPeer{l}, nil }

func command(words ...[]byte) []byte {
	out := fmt.Appendf(nil, "*%d\r\n", len(words))
	for _, word := range words {
		out = fmt.Appendf(out, "$%d\r\n", len(word))
		out = append(append(out, word...), "\r\n"...)
	}
	return out
}

func words(text ...string) []byte {
	all := make([][]byte, len(text))
	for i, one := range text {
		all[i] = []byte(one)
	}
	return command(all...)
}

// A reply: a number, a text or a list.
type reply struct {
	text  []byte
	list  []reply
	none  bool
	value int
}

func readReply(from *bufio.Reader) (reply, error) {
	line, err := from.ReadSlice('\n')
	if err != nil {
		return reply{}, err
	}
	kind, rest := line[0], line[1:len(line)-2]
	switch kind {
	case '+':
		return reply{text: bytes.Clone(rest)}, nil
	case '-':
		return reply{}, fmt.Errorf("redis: %s", rest)
	}
	count, err := strconv.Atoi(string(rest))
	if err != nil {
		return reply{}, err
	}
	switch {
	case kind == ':':
		return reply{value: count}, nil
	case count < 0:
		return reply{none: true}, nil
	case kind == '$':
		text := make([]byte, count+2)
		if _, err := io.ReadFull(from, text); err != nil {
			return reply{}, err
		}
		return reply{text: text[:count]}, nil
	}
	list := make([]reply, count)
	for i := range list {
		if list[i], err = readReply(from); err != nil {
			return reply{}, err
		}
	}
	return reply{list: list}, nil
}

type redisConn struct {
	net.Conn
	in  *bufio.Reader
	out *bufio.Writer
}

func (p *redisPeer) connect() (*redisConn, error) {
	c, err := net.Dial("tcp", p.l.address)
	if err != nil {
		return nil, err
	}
	return &redisConn{c, bufio.NewReaderSize(c, redisBuffer), bufio.NewWriterSize(c, redisBuffer)}, nil
}

func (c *redisConn) do(sent []byte) (reply, error) {
	if _, err := c.out.Write(sent); err != nil {
		return reply{}, err
	}
	if err := c.out.Flush(); err != nil {
		return reply{}, err
	}
	return readReply(c.in)
}

func groupName(group int) string { return fmt.Sprintf("g%d", group) }

func (p *redisPeer) setup(groups int) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	for group := range groups {
		if _, err := c.do(words("XGROUP", "CREATE", p.l.name, groupName(group), "0",
			"MKSTREAM")); err != nil {
			return err
		}
	}
	return nil
}

func (p *redisPeer) remove() {
	if c, err := p.connect(); err == nil {
		_, _ = c.do(words("DEL", p.l.name))
		c.Close()
	}
}

// Sends ahead of the replies, which a goroutine reads. When the window is full, it waits for half
// of it, so that commands travel and are synced many at a time.
type redisPublisher struct {
	c          *redisConn
	name       []byte
	window     int
	mutex      sync.Mutex
	changed    *sync.Cond
	unanswered int
	failed     error
}

func (p *redisPeer) publisher() (publisher, error) {
	c, err := p.connect()
	if err != nil {
		return nil, err
	}
	to := &redisPublisher{c: c, name: []byte(p.l.name), window: p.l.window}
	to.changed = sync.NewCond(&to.mutex)
	go to.read()
	return to, nil
}

func (to *redisPublisher) read() {
	for {
		_, err := readReply(to.c.in)
		to.mutex.Lock()
		to.unanswered--
		if err != nil {
			to.failed = err
			to.unanswered = 0
		}
		to.mutex.Unlock()
		if err != nil || to.c.in.Buffered() == 0 {
			to.changed.Signal()
		}
		if err != nil {
			return
		}
	}
}

// Until at most so many are without an answer.
func (to *redisPublisher) wait(most int) error {
	to.mutex.Lock()
	defer to.mutex.Unlock()
	for to.unanswered > most {
		to.changed.Wait()
	}
	return to.failed
}

func (to *redisPublisher) send(data []byte) error {
	to.mutex.Lock()
	full := to.unanswered >= to.window
	to.mutex.Unlock()
	if full {
		if err := to.c.out.Flush(); err != nil {
			return err
		}
		if err := to.wait(to.window / 2); err != nil {
			return err
		}
	}
	to.mutex.Lock()
	to.unanswered++
	to.mutex.Unlock()
	out := to.c.out
	fmt.Fprintf(out, "*5\r\n$4\r\nXADD\r\n$%d\r\n%s\r\n$1\r\n*\r\n$1\r\nd\r\n$%d\r\n", len(to.name),
		to.name, len(data))
	_, _ = out.Write(data)
	_, err := out.WriteString("\r\n")
	return err
}

func (to *redisPublisher) push() error {
	if to.c.out.Buffered() == 0 {
		return nil
	}
	return to.c.out.Flush()
}

func (to *redisPublisher) flush() error {
	if err := to.c.out.Flush(); err != nil {
		return err
	}
	return to.wait(0)
}

func (to *redisPublisher) call(data []byte) error {
	if err := to.send(data); err != nil {
		return err
	}
	return to.flush()
}

func (to *redisPublisher) close() { to.c.Close() }

type redisConsumer struct {
	p     *redisPeer
	c     *redisConn
	group string
	ended chan struct{}
}

func (p *redisPeer) consumer(group int, each handler) (consumer, error) {
	c, err := p.connect()
	if err != nil {
		return nil, err
	}
	from := &redisConsumer{p: p, c: c, group: groupName(group), ended: make(chan struct{})}
	go from.run(each)
	return from, nil
}

func (from *redisConsumer) run(each handler) {
	defer close(from.ended)
	c, name := from.c, from.p.l.name
	next := words("XREADGROUP", "GROUP", from.group, "c", "COUNT", strconv.Itoa(redisReadCount),
		"BLOCK", "60000", "STREAMS", name, ">")
	if _, err := c.out.Write(next); err != nil || c.out.Flush() != nil {
		return
	}
	for {
		got, err := readReply(c.in)
		if err != nil {
			return
		}
		acks := 0
		if !got.none {
			entries := got.list[0].list[1].list
			ids := [][]byte{[]byte("XACK"), []byte(name), []byte(from.group)}
			for _, entry := range entries {
				each(entry.list[1].list[1].text)
				ids = append(ids, entry.list[0].text)
			}
			_, _ = c.out.Write(command(ids...))
			acks = 1
		}
		if _, err := c.out.Write(next); err != nil || c.out.Flush() != nil {
			return
		}
		for range acks {
			if _, err := readReply(c.in); err != nil {
				return
			}
		}
	}
}

func (from *redisConsumer) settled() error {
	c, err := from.p.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		got, err := c.do(words("XPENDING", from.p.l.name, from.group))
		if err != nil {
			return err
		}
		if len(got.list) > 0 && got.list[0].value == 0 {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("redis: acknowledgements are missing")
}

func (from *redisConsumer) close() {
	from.c.Close()
	<-from.ended
}

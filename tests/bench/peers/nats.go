package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

const (
	natsAckEvery   = 256 // with acknowledgements of "all before"
	natsPrefetch   = 8192
	natsPendingMax = 65536
)

// NATS JetStream: one stream on files, one durable consumer per group.
type natsPeer struct{ l load }

func newNats(l load) (peer, error) { return &natsPeer{l}, nil }

func (p *natsPeer) connect(
	opts ...jetstream.JetStreamOpt) (*nats.Conn, jetstream.JetStream, error) {
	nc, err := nats.Connect("nats://"+p.l.address, nats.NoReconnect())
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc, opts...)
	return nc, js, err
}

func (p *natsPeer) durable(group int) string { return fmt.Sprintf("g%d", group) }

func (p *natsPeer) setup(groups int) error {
	nc, js, err := p.connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	ctx, done := context.WithTimeout(context.Background(), time.Minute)
	defer done()
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{
		Name: p.l.name, Subjects: []string{p.l.name}, Storage: jetstream.FileStorage,
		AllowBatchPublish: p.l.publish == "fast",
	})
	if err != nil {
		return err
	}
	policy := jetstream.AckExplicitPolicy
	if p.l.ack == "all" {
		policy = jetstream.AckAllPolicy
	}
	for group := range groups {
		config := jetstream.ConsumerConfig{Durable: p.durable(group), AckPolicy: policy,
			MaxAckPending: natsPendingMax, AckWait: time.Minute}
		if p.l.consume == "push" {
			config.DeliverSubject = p.l.name + ".to." + p.durable(group)
			_, err = js.CreatePushConsumer(ctx, p.l.name, config)
		} else {
			_, err = js.CreateConsumer(ctx, p.l.name, config)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *natsPeer) remove() {
	nc, js, err := p.connect()
	if err != nil {
		return
	}
	defer nc.Close()
	ctx, done := context.WithTimeout(context.Background(), time.Minute)
	defer done()
	_ = js.DeleteStream(ctx, p.l.name)
}

type natsPublisher struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	name   string
	failed atomic.Int64
	fast   jetstreamext.FastPublisher
}

func (p *natsPeer) publisher() (publisher, error) {
	to := &natsPublisher{name: p.l.name}
	var err error
	to.nc, to.js, err = p.connect(jetstream.WithPublishAsyncMaxPending(p.l.window),
		jetstream.WithPublishAsyncErrHandler(func(jetstream.JetStream, *nats.Msg, error) {
			to.failed.Add(1)
		}))
	if err == nil && p.l.publish == "fast" {
		err = to.startFast()
	}
	if err != nil {
		return nil, err
	}
	return to, nil
}

func (to *natsPublisher) send(data []byte) error {
	if to.fast != nil {
		_, err := to.fast.Add(to.name, data)
		return err
	}
	_, err := to.js.PublishAsync(to.name, data, jetstream.WithStallWait(time.Minute))
	return err
}

func (to *natsPublisher) push() error { return nil } // the client's writer does not wait

func (to *natsPublisher) flush() error {
	if to.fast != nil {
		ctx, done := context.WithTimeout(context.Background(), 5*time.Minute)
		defer done()
		_, err := to.fast.Close(ctx)
		if err == nil {
			err = to.startFast()
		}
		return err
	}
	select {
	case <-to.js.PublishAsyncComplete():
	case <-time.After(5 * time.Minute):
		return fmt.Errorf("publishes without an answer")
	}
	if failed := to.failed.Load(); failed > 0 {
		return fmt.Errorf("%d publishes failed", failed)
	}
	return nil
}

func (to *natsPublisher) startFast() error {
	fast, err := jetstreamext.NewFastPublisher(to.js,
		jetstreamext.FastPublishFlowControl{Flow: 1000, MaxOutstandingAcks: 3,
			AckTimeout: 30 * time.Second})
	to.fast = fast
	return err
}

func (to *natsPublisher) call(data []byte) error {
	ctx, done := context.WithTimeout(context.Background(), time.Minute)
	defer done()
	_, err := to.js.Publish(ctx, to.name, data)
	return err
}

func (to *natsPublisher) close() { to.nc.Close() }

type natsConsumer struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	name  string
	group string
	stop  func()
}

func (p *natsPeer) consumer(group int, each handler) (consumer, error) {
	from := &natsConsumer{name: p.l.name, group: p.durable(group)}
	var err error
	if from.nc, from.js, err = p.connect(); err != nil {
		return nil, err
	}
	ctx, done := context.WithTimeout(context.Background(), time.Minute)
	defer done()
	unacked := 0
	handle := func(m jetstream.Msg) {
		each(m.Data())
		if p.l.ack == "all" {
			// The last of a burst too: nothing stays without its acknowledgement.
			unacked++
			meta, err := m.Metadata()
			if unacked < natsAckEvery && err == nil && meta.NumPending > 0 {
				return
			}
			unacked = 0
		}
		_ = m.Ack()
	}
	if p.l.consume == "push" {
		c, err := from.js.PushConsumer(ctx, p.l.name, from.group)
		if err != nil {
			return nil, err
		}
		running, err := c.Consume(handle)
		if err != nil {
			return nil, err
		}
		from.stop = running.Stop
		return from, nil
	}
	c, err := from.js.Consumer(ctx, p.l.name, from.group)
	if err != nil {
		return nil, err
	}
	running, err := c.Consume(handle, jetstream.PullMaxMessages(natsPrefetch))
	if err != nil {
		return nil, err
	}
	from.stop = running.Stop
	return from, nil
}

func (from *natsConsumer) settled() error {
	ctx, done := context.WithTimeout(context.Background(), time.Minute)
	defer done()
	for {
		info, err := from.info(ctx)
		if err != nil {
			return err
		}
		if info.NumAckPending == 0 && info.NumPending == 0 {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
}

func (from *natsConsumer) info(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	stream, err := from.js.Stream(ctx, from.name)
	if err != nil {
		return nil, err
	}
	if c, err := stream.Consumer(ctx, from.group); err == nil {
		return c.CachedInfo(), nil
	}
	c, err := stream.PushConsumer(ctx, from.group)
	if err != nil {
		return nil, err
	}
	return c.CachedInfo(), nil
}

func (from *natsConsumer) close() {
	from.stop()
	from.nc.Close()
}

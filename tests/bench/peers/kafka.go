package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	kafkaPartitions = 4
	kafkaBatchBytes = 1 << 20
)

// Apache Kafka by franz-go: one topic of four partitions, acks=all, one group per group.
type kafkaPeer struct{ l load }

func newKafka(l load) (peer, error) { return &kafkaPeer{l}, nil }

func (p *kafkaPeer) client(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(p.l.address)}, opts...)...)
}

func (p *kafkaPeer) setup(int) error {
	c, err := p.client()
	if err != nil {
		return err
	}
	defer c.Close()
	request := kmsg.NewPtrCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = p.l.name, kafkaPartitions, 1
	request.Topics = append(request.Topics, topic)
	ctx, done := context.WithTimeout(context.Background(), time.Minute)
	defer done()
	answer, err := request.RequestWith(ctx, c)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(answer.Topics[0].ErrorCode)
}

func (p *kafkaPeer) remove() {
	c, err := p.client()
	if err != nil {
		return
	}
	defer c.Close()
	request := kmsg.NewPtrDeleteTopicsRequest()
	topic := kmsg.NewDeleteTopicsRequestTopic()
	topic.Topic = &p.l.name
	request.TopicNames = []string{p.l.name}
	request.Topics = append(request.Topics, topic)
	ctx, done := context.WithTimeout(context.Background(), time.Minute)
	defer done()
	_, _ = request.RequestWith(ctx, c)
}

type kafkaPublisher struct {
	c      *kgo.Client
	failed atomic.Int64
}

func (p *kafkaPeer) publisher() (publisher, error) {
	linger := 5 * time.Millisecond // batches fill
	if p.l.latency {
		linger = 0
	}
	c, err := p.client(kgo.DefaultProduceTopic(p.l.name), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchMaxBytes(kafkaBatchBytes), kgo.ProducerLinger(linger),
		kgo.MaxBufferedRecords(8*8192), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		return nil, err
	}
	return &kafkaPublisher{c: c}, nil
}

func (to *kafkaPublisher) send(data []byte) error {
	to.c.Produce(context.Background(), &kgo.Record{Value: data}, func(_ *kgo.Record, err error) {
		if err != nil {
			to.failed.Add(1)
		}
	})
	return nil
}

func (to *kafkaPublisher) push() error { return nil }

func (to *kafkaPublisher) flush() error {
	if err := to.c.Flush(context.Background()); err != nil {
		return err
	}
	if failed := to.failed.Load(); failed > 0 {
		return fmt.Errorf("%d publishes failed", failed)
	}
	return nil
}

func (to *kafkaPublisher) call(data []byte) error {
	ctx, done := context.WithTimeout(context.Background(), time.Minute)
	defer done()
	return to.c.ProduceSync(ctx, &kgo.Record{Value: data}).FirstErr()
}

func (to *kafkaPublisher) close() { to.c.Close() }

type kafkaConsumer struct {
	c     *kgo.Client
	stop  context.CancelFunc
	ended sync.WaitGroup
}

func (p *kafkaPeer) consumer(group int, each handler) (consumer, error) {
	joined := make(chan struct{})
	var once sync.Once
	c, err := p.client(kgo.ConsumeTopics(p.l.name),
		kgo.ConsumerGroup(fmt.Sprintf("%s-g%d", p.l.name, group)),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(),
		kgo.FetchMaxWait(100*time.Millisecond), kgo.FetchMinBytes(1),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) {
			once.Do(func() { close(joined) })
		}))
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	from := &kafkaConsumer{c: c, stop: stop}
	from.ended.Add(1)
	go func() {
		defer from.ended.Done()
		for ctx.Err() == nil {
			fetches := c.PollFetches(ctx)
			fetches.EachRecord(func(r *kgo.Record) { each(r.Value) })
			// Not waited for, as a fast consumer would; settled() waits for the last.
			c.CommitOffsets(ctx, c.UncommittedOffsets(), nil)
		}
	}()
	<-joined
	return from, nil
}

func (from *kafkaConsumer) settled() error {
	return from.c.CommitUncommittedOffsets(context.Background())
}

func (from *kafkaConsumer) close() {
	from.stop()
	from.ended.Wait()
	from.c.Close()
}

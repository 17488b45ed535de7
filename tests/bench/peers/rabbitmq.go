package main

import (
	"fmt"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	rabbitPrefetch = 2000
	rabbitAckEvery = 250
)

// RabbitMQ by its own Go client: a quorum queue per group behind a fanout exchange, publisher
// confirms, acknowledgements of "all before".
type rabbitPeer struct{ l load }

func newRabbit(l load) (peer, error) { return &rabbitPeer{l}, nil }

func (p *rabbitPeer) connect() (*amqp.Connection, *amqp.Channel, error) {
	c, err := amqp.Dial("amqp://guest:guest@" + p.l.address + "/")
	if err != nil {
		return nil, nil, err
	}
	channel, err := c.Channel()
	return c, channel, err
}

func (p *rabbitPeer) queue(group int) string { return fmt.Sprintf("%s.g%d", p.l.name, group) }

func (p *rabbitPeer) setup(groups int) error {
	c, channel, err := p.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := channel.ExchangeDeclare(p.l.name, "fanout", true, false, false, false, nil); err != nil {
		return err
	}
	for group := range groups {
		if _, err := channel.QueueDeclare(p.queue(group), true, false, false, false,
			amqp.Table{"x-queue-type": "quorum"}); err != nil {
			return err
		}
		if err := channel.QueueBind(p.queue(group), "", p.l.name, false, nil); err != nil {
			return err
		}
	}
	return nil
}

func (p *rabbitPeer) remove() {
	c, channel, err := p.connect()
	if err != nil {
		return
	}
	defer c.Close()
	for group := range max(p.l.groups, 1) {
		_, _ = channel.QueueDelete(p.queue(group), false, false, false)
	}
	_ = channel.ExchangeDelete(p.l.name, false, false)
}

type rabbitPublisher struct {
	c       *amqp.Connection
	channel *amqp.Channel
	name    string
	window  chan struct{}
	refused atomic.Int64
}

func (p *rabbitPeer) publisher() (publisher, error) {
	c, channel, err := p.connect()
	if err != nil {
		return nil, err
	}
	if err := channel.Confirm(false); err != nil {
		return nil, err
	}
	to := &rabbitPublisher{c: c, channel: channel, name: p.l.name,
		window: make(chan struct{}, p.l.window)}
	confirms := channel.NotifyPublish(make(chan amqp.Confirmation, p.l.window+1))
	go func() {
		for one := range confirms {
			if !one.Ack {
				to.refused.Add(1)
			}
			<-to.window
		}
	}()
	return to, nil
}

func (to *rabbitPublisher) send(data []byte) error {
	to.window <- struct{}{}
	return to.channel.Publish(to.name, "", false, false,
		amqp.Publishing{DeliveryMode: amqp.Persistent, Body: data})
}

func (to *rabbitPublisher) push() error { return nil }

func (to *rabbitPublisher) flush() error {
	for end := time.Now().Add(5 * time.Minute); len(to.window) > 0; {
		if time.Now().After(end) {
			return fmt.Errorf("publishes without an answer")
		}
		time.Sleep(100 * time.Microsecond)
	}
	if refused := to.refused.Load(); refused > 0 {
		return fmt.Errorf("%d publishes were refused", refused)
	}
	return nil
}

func (to *rabbitPublisher) call(data []byte) error {
	confirmed, err := to.channel.PublishWithDeferredConfirm(to.name, "", false, false,
		amqp.Publishing{DeliveryMode: amqp.Persistent, Body: data})
	if err != nil {
		return err
	}
	to.window <- struct{}{} // the goroutine takes one for each confirmation
	if !confirmed.Wait() {
		return fmt.Errorf("a publish was refused")
	}
	return nil
}

func (to *rabbitPublisher) close() { to.c.Close() }

type rabbitConsumer struct {
	c       *amqp.Connection
	channel *amqp.Channel
	queue   string
	unacked atomic.Int64
}

func (p *rabbitPeer) consumer(group int, each handler) (consumer, error) {
	c, channel, err := p.connect()
	if err != nil {
		return nil, err
	}
	if err := channel.Qos(rabbitPrefetch, 0, false); err != nil {
		return nil, err
	}
	from := &rabbitConsumer{c: c, channel: channel, queue: p.queue(group)}
	deliveries, err := channel.Consume(from.queue, "", false, false, false, false, nil)
	if err != nil {
		return nil, err
	}
	go func() {
		for one := range deliveries {
			from.unacked.Add(1)
			each(one.Body)
			if from.unacked.Load() >= rabbitAckEvery || len(deliveries) == 0 {
				_ = one.Ack(true)
				from.unacked.Store(0)
			}
		}
	}()
	return from, nil
}

// The last acknowledgement was sent, and the channel answers what was asked behind it.
func (from *rabbitConsumer) settled() error {
	for end := time.Now().Add(time.Minute); from.unacked.Load() > 0; {
		if time.Now().After(end) {
			return fmt.Errorf("acknowledgements are missing")
		}
		time.Sleep(100 * time.Microsecond)
	}
	_, err := from.channel.QueueDeclarePassive(from.queue, true, false, false, false,
		amqp.Table{"x-queue-type": "quorum"})
	return err
}

func (from *rabbitConsumer) close() { from.c.Close() }

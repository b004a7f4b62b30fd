package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"time"
)

// A container's GPUs are where nvidia-container-runtime put the broker: runtime.py, SHARED.
const broker = "/run/played-gpus/broker.sock"

const retry = 100 * time.Millisecond

// An order is the broker's: work.py, Order.
type order struct {
	Busy   float64 `json:"busy"`
	Memory int64   `json:"memory_bytes"`
	Gpus   []int   `json:"gpus,omitempty"`
}

// A gpu is a conversation with the broker, begun anew whenever the broker goes.
type gpu struct {
	orders  chan order
	refused chan error
	done    chan struct{}
	started bool
}

func newGPU() *gpu {
	return &gpu{make(chan order), make(chan error, 1), make(chan struct{}), false}
}

// do says what the program does from now on. The error is that the container has no GPU.
func (g *gpu) do(now order) error {
	if !g.started {
		if _, err := os.Stat(path.Dir(address())); errors.Is(err, fs.ErrNotExist) {
			return errors.New("this container has no GPU")
		}
		g.started = true
		go g.converse(now)
		return nil
	}
	select {
	case g.orders <- now:
	case err := <-g.refused:
		return err
	}
	return nil
}

func (g *gpu) close() { close(g.done) }

// converse keeps the latest order in force until close, or until the broker refuses one.
func (g *gpu) converse(now order) {
	for {
		if err := g.once(&now); err != nil {
			g.refused <- err
			return
		}
		select {
		case <-g.done:
			return
		case now = <-g.orders:
		case <-time.After(retry):
		}
	}
}

// once is one connection; nil when it ended for no fault of the order.
func (g *gpu) once(now *order) error {
	connection, err := net.DialTimeout("unix", address(), time.Second)
	if err != nil {
		return nil
	}
	defer connection.Close()
	answers := make(chan string)
	stopped := make(chan struct{})
	defer close(stopped)
	go func() {
		defer close(answers)
		for lines := bufio.NewScanner(connection); lines.Scan(); {
			select {
			case answers <- lines.Text():
			case <-stopped:
				return
			}
		}
	}()
	if json.NewEncoder(connection).Encode(now) != nil {
		return nil
	}
	for {
		select {
		case <-g.done:
			return nil
		case *now = <-g.orders:
			if json.NewEncoder(connection).Encode(now) != nil {
				return nil
			}
		case answer, open := <-answers:
			if !open {
				return nil
			}
			var read struct {
				Devices []string `json:"devices"`
				Error   string   `json:"error"`
			}
			if json.Unmarshal([]byte(answer), &read) != nil || read.Error != "" {
				return fmt.Errorf("the GPU refused: %s", answer)
			}
			fmt.Printf("busy %g on %v\n", now.Busy, read.Devices)
		}
	}
}

// address is the broker's, or for a worker in no container, PLAYED_GPUS_BROKER.
func address() string {
	if path := os.Getenv("PLAYED_GPUS_BROKER"); path != "" {
		return path
	}
	return broker
}

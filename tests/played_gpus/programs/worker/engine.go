package main

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

// An engine answers requests as an inference server does, and shows what vLLM shows of that.
// As many as it has slots are worked on at once; the others wait. The GPU is busy while any is.
type engine struct {
	takes time.Duration
	slots chan struct{}
	busy  func(busy bool)

	lock                   sync.Mutex
	done, running, waiting int
}

func newEngine(slots int, takes time.Duration, busy func(bool)) *engine {
	return &engine{takes: takes, slots: make(chan struct{}, slots), busy: busy}
}

// Tokens of every request.
const promptTokens, outputTokens = 100, 40

func (e *engine) handle(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/completions", e.complete)
	mux.HandleFunc("GET /metrics", e.metrics)
}

func (e *engine) complete(writer http.ResponseWriter, request *http.Request) {
	e.count(func() { e.waiting++ })
	select {
	case e.slots <- struct{}{}:
	case <-request.Context().Done():
		e.count(func() { e.waiting-- })
		return
	}
	e.count(func() { e.waiting--; e.running++ })
	time.Sleep(e.takes)
	e.count(func() { e.running--; e.done++ })
	<-e.slots
	fmt.Fprintln(writer, `{"object": "text_completion"}`)
}

// count changes the figures, and tells the GPU when the first comes or the last goes.
func (e *engine) count(change func()) {
	e.lock.Lock()
	defer e.lock.Unlock()
	before := e.running > 0
	change()
	if now := e.running > 0; now != before {
		e.busy(now)
	}
}

func (e *engine) metrics(writer http.ResponseWriter, _ *http.Request) {
	e.lock.Lock()
	defer e.lock.Unlock()
	for _, each := range []struct {
		name, kind, labels string
		value              int
	}{
		{"request_success_total", "counter", `finished_reason="stop",`, e.done},
		{"prompt_tokens_total", "counter", "", e.done * promptTokens},
		{"generation_tokens_total", "counter", "", e.done * outputTokens},
		{"num_requests_running", "gauge", "", e.running},
		{"num_requests_waiting", "gauge", "", e.waiting},
	} {
		fmt.Fprintf(writer, "# TYPE vllm:%s %s\nvllm:%s{%smodel_name=\"played\"} %d\n",
			each.name, each.kind, each.name, each.labels, each.value)
	}
}

// Worker is a program that uses a GPU, to everybody but the GPU: it tells the played node's broker
// how busy it keeps its devices and what memory it has there, for as long as it runs.
//
//	worker train [--busy 0.9] [--memory 20GiB] [--gpus 0,1] [--for 60s]
//	worker idle [--memory 20GiB] [--for 60s]          without memory it never opens the GPU
//	worker start-slowly --after 20s [as train]        Ready (HTTP on --port) after that
//	worker crash --after 5s [--code 1] [as train]
//	worker phases [as train] busy:0.9:30s,idle:20s    again from the first with --repeat
//	worker serve [--slots 4] [--takes 1s] [as start-slowly]
//	                                                  answers POST /v1/completions, as busy as
//	                                                  --busy meanwhile, and shows vLLM's /metrics
//
// It ends with 0 when its time is over, and at SIGTERM, --linger later.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// forever outlives any test.
const forever = 365 * 24 * time.Hour

// A phase of work; one that is not open uses no GPU.
type phase struct {
	order  order
	open   bool
	length time.Duration
}

// A plan is what the command line asks for.
type plan struct {
	phases []phase
	repeat bool
	after  time.Duration // until Ready
	port   int
	linger time.Duration
	code   int // at the end
	slots  int // of an engine; none: it serves nothing but its readiness
	takes  time.Duration
}

func main() {
	plan, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(2)
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	if err := run(plan, ended); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
	os.Exit(plan.code)
}

func parse(words []string) (plan, error) {
	if len(words) == 0 {
		return plan{}, errors.New("say train, idle, start-slowly, crash, phases or serve")
	}
	command := words[0]
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	busy := flags.Float64("busy", 0.9, "share of time that the GPU is busy")
	memory := flags.String("memory", "", "memory on each GPU, as 20GiB")
	gpus := flags.String("gpus", "", "which of the container's GPUs, as 0,1; all")
	length := flags.Duration("for", forever, "how long")
	after := flags.Duration("after", 0, "when it is Ready, or crashes")
	code := flags.Int("code", 1, "with what it crashes")
	port := flags.Int("port", 0, "serve readiness on this port")
	linger := flags.Duration("linger", 0, "how long it goes on after SIGTERM")
	repeat := flags.Bool("repeat", false, "phases again from the first")
	slots := flags.Int("slots", 4, "requests that it works on at once")
	takes := flags.Duration("takes", time.Second, "how long it works on one")
	if err := flags.Parse(words[1:]); err != nil {
		return plan{}, err
	}
	does := order{Busy: *busy}
	var err error
	if does.Memory, err = bytesOf(*memory); err != nil {
		return plan{}, err
	}
	if does.Gpus, err = places(*gpus); err != nil {
		return plan{}, err
	}
	rests := does
	rests.Busy = 0
	made := plan{port: *port, linger: *linger}
	switch command {
	case "train":
		made.phases = []phase{{does, true, *length}}
	case "idle":
		made.phases = []phase{{rests, *memory != "", *length}}
	case "start-slowly":
		made.after, made.port = *after, cmp.Or(*port, 8080)
		made.phases = []phase{{rests, false, *after}, {does, true, *length}}
	case "serve":
		made.after, made.port = *after, cmp.Or(*port, 8080)
		made.slots, made.takes = *slots, *takes
		made.phases = []phase{{does, false, *length}}
	case "crash":
		made.code = *code
		made.phases = []phase{{does, true, *after}}
	case "phases":
		made.repeat = *repeat
		made.phases, err = phases(flags.Arg(0), does)
	default:
		err = fmt.Errorf("%s is none of train, idle, start-slowly, crash, phases, serve", command)
	}
	return made, err
}

// phases reads busy:0.9:30s,idle:20s.
func phases(text string, does order) ([]phase, error) {
	var all []phase
	for _, word := range strings.Split(text, ",") {
		parts := strings.Split(word, ":")
		next := phase{order: does, open: true}
		next.order.Busy = 0
		var err error
		switch {
		case parts[0] == "busy" && len(parts) == 3:
			if next.order.Busy, err = strconv.ParseFloat(parts[1], 64); err != nil {
				return nil, fmt.Errorf("phase %q: %w", word, err)
			}
		case parts[0] == "idle" && len(parts) == 2:
		default:
			return nil, fmt.Errorf("phase %q is not like busy:0.9:30s or idle:20s", word)
		}
		if next.length, err = time.ParseDuration(parts[len(parts)-1]); err != nil {
			return nil, fmt.Errorf("phase %q: %w", word, err)
		}
		all = append(all, next)
	}
	return all, nil
}

func places(text string) ([]int, error) {
	if text == "" {
		return nil, nil
	}
	var all []int
	for _, word := range strings.Split(text, ",") {
		place, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("--gpus: %w", err)
		}
		all = append(all, place)
	}
	return all, nil
}

// bytesOf reads 20GiB, 512MiB or a number of bytes; nothing is what a program has that only
// opened the GPU.
func bytesOf(text string) (int64, error) {
	factor := int64(1)
	number := text
	switch {
	case text == "":
		return 256 << 20, nil
	case strings.HasSuffix(text, "GiB"):
		number, factor = strings.TrimSuffix(text, "GiB"), 1<<30
	case strings.HasSuffix(text, "MiB"):
		number, factor = strings.TrimSuffix(text, "MiB"), 1<<20
	}
	value, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, fmt.Errorf("--memory: %q is not like 20GiB", text)
	}
	return int64(value * float64(factor)), nil
}

func run(plan plan, ended <-chan os.Signal) error {
	gpu := newGPU()
	defer gpu.close()
	if plan.port != 0 {
		var ready atomic.Bool
		time.AfterFunc(plan.after, func() { ready.Store(true) })
		mux := http.NewServeMux()
		if plan.slots > 0 {
			works, rests := plan.phases[0].order, plan.phases[0].order
			rests.Busy = 0
			if err := gpu.do(rests); err != nil {
				return err
			}
			newEngine(plan.slots, plan.takes, func(busy bool) {
				if err := gpu.do(map[bool]order{true: works, false: rests}[busy]); err != nil {
					fmt.Fprintln(os.Stderr, "worker:", err)
					os.Exit(1)
				}
			}).handle(mux)
		}
		serve(plan.port, mux, &ready)
	}
	for {
		for _, phase := range plan.phases {
			if phase.open {
				if err := gpu.do(phase.order); err != nil {
					return err
				}
			}
			over := time.After(phase.length)
			select {
			case <-ended:
				time.Sleep(plan.linger)
				os.Exit(0)
			case err := <-gpu.refused:
				return err
			case <-over:
			}
		}
		if !plan.repeat {
			return nil
		}
	}
}

// serve answers at / with 200 once ready, 503 before.
func serve(port int, mux *http.ServeMux, ready *atomic.Bool) {
	mux.HandleFunc("/", func(writer http.ResponseWriter, _ *http.Request) {
		if !ready.Load() {
			http.Error(writer, "starting", http.StatusServiceUnavailable)
		}
	})
	server := &http.Server{
		Addr:              ":" + strconv.Itoa(port),
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
	}
	go func() {
		fmt.Fprintln(os.Stderr, "worker:", server.ListenAndServe())
		os.Exit(1)
	}()
}

/* The machine that the fake library plays: a flat text file, read again whenever it changes.
 *
 * Nothing is kept between readings except what a driver keeps per process: how often init was
 * called and how often each injected failure was asked. Time series (energy, utilisation
 * samples) follow from the file and the clock, so all processes on a node see one machine.
 */
#ifndef FAKE_NVML_WORLD_H
#define FAKE_NVML_WORLD_H

#include <stdbool.h>

enum { MAX_GPUS = 32, MAX_MIG = 16, MAX_PROCS = 128, MAX_EVENTS = 512, MAX_FAILS = 128 };
enum { NONE = 0xFFFFFFFF };

typedef unsigned long long u64;

typedef struct { bool known; double graphics, sm, occupancy, tensor, dram; } Gpm;
typedef struct { bool known; u64 total, reserved, used; } Memory;

typedef struct {
    bool present;
    unsigned slot, gi, ci, ci_slices, gi_slices, sms;
    int placement; /* -1: not told */
    u64 key; /* what its handle carries: changes whenever the instance does */
    char uuid[96], profile[32];
    Memory memory;
    Gpm gpm;
} Instance;

typedef struct {
    unsigned pid, gi, ci, kind, sm;
    u64 bytes;
} Proc;

enum { COMPUTE, GRAPHICS, MPS };

typedef struct {
    char name[96], uuid[96];
    long minor, bus;
    int mig_mode; /* -1: the model cannot */
    unsigned mig_slices, max_mig;
    Instance mig[MAX_MIG];
    Memory memory;
    bool has_util, has_samples, has_power, has_energy, has_temperature, has_clock, has_rows,
        has_ecc, has_recovery, wide_procs;
    unsigned util_gpu, util_memory, sample_level, sample_peak, power_mw, temperature, sm_mhz,
        mem_mhz, rows[4], recovery;
    u64 energy_mj, energy_at_us, ecc_corrected, ecc_uncorrected;
    Gpm gpm;
    int n_procs;
    Proc procs[MAX_PROCS];
} Gpu;

typedef struct { u64 seq; unsigned gpu, xid, gi; } Event;

typedef struct {
    unsigned id;
    char call[64]; /* "*" is every call */
    int code;      /* 0: only the delay */
    int gpu;       /* -1: any */
    int gi;        /* -1: any; else only MIG handles of that GPU instance */
    u64 after, times, delay_ms;
} Fail;

typedef struct {
    bool readable;
    bool hides_processes; /* the caller is not in the PID namespace whose processes are told */
    int init_code, n_gpus, n_events, n_fails;
    char driver[80];
    unsigned cuda;
    Gpu gpus[MAX_GPUS];
    Event events[MAX_EVENTS];
    Fail fails[MAX_FAILS];
} World;

/* Reads the file named by FAKE_NVML_SCENARIO if it changed. Call with the lock held. */
__attribute__((visibility("hidden"))) const World *world_now(void);

#endif

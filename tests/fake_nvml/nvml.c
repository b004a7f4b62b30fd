/* libnvidia-ml.so.1 as gpucost and nvitop call it, over a played machine (world.h).
 *
 * Structures and numbers are those of NVML's published ABI, written out here as far as they
 * are needed; names are the exported, versioned ones. Handles carry indices, never pointers
 * into the world, for the world is replaced under them. A fact that the scenario does not
 * state is NOT_SUPPORTED, as on a real device.
 *
 * It is long because the interface is wide; each function stands alone, in the order of nvml.h's
 * subjects.
 */
#define _GNU_SOURCE
#include "world.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

enum {
    OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, TIMEOUT = 10, VERSION_MISMATCH = 25
};

typedef int Return;
typedef void *Handle;

/* --- the door: lock, reload, injected failures, handles ----------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int inits;
static u64 asked[1 << 16]; /* by failure id: how often its call was made in this process */

typedef struct {
    const World *world;
    int index; /* -1 where the call is about no device */
    const Gpu *gpu;
    const Instance *mig; /* NULL on a whole GPU */
} Target;

static const Handle NO_DEVICE = NULL;

static Handle handle_of(int gpu, const Instance *mig)
{
    return (Handle)(uintptr_t)((mig ? mig->key << 16 : 0) | (0x100 + (u64)gpu));
}

static bool resolve(Handle handle, Target *t)
{
    u64 bits = (u64)(uintptr_t)handle, key = bits >> 16;
    int index = (int)(bits & 0xFFFF) - 0x100;
    if (index < 0 || index >= t->world->n_gpus)
        return false;
    t->index = index;
    t->gpu = &t->world->gpus[index];
    if (!key)
        return true;
    for (int k = 0; k < MAX_MIG && t->gpu->mig_mode == 1; k++)
        if (t->gpu->mig[k].present && t->gpu->mig[k].key == key) {
            t->mig = &t->gpu->mig[k];
            return true;
        }
    return false; /* destroyed since: NVML says that MIG handles go stale */
}

static const Fail *rule_for(const char *call, const Target *t)
{
    for (int k = 0; k < t->world->n_fails; k++) {
        const Fail *f = &t->world->fails[k];
        if ((strcmp(f->call, "*") && strcmp(f->call, call)) ||
            (f->gpu >= 0 && f->gpu != t->index) ||
            (f->gi >= 0 && (!t->mig || t->mig->gi != (unsigned)f->gi)))
            continue;
        u64 nth = asked[f->id & 0xFFFF]++;
        if (nth >= f->after && nth - f->after < f->times)
            return f;
    }
    return NULL;
}

static bool still_there(unsigned id)
{
    const World *w = world_now();
    for (int k = 0; k < w->n_fails; k++)
        if (w->fails[k].id == id)
            return true;
    return false;
}

/* Sleeps with the door open, and gets up early once the rule is taken back. */
static void sleep_for(u64 ms, unsigned id)
{
    for (u64 slept = 0; slept < ms && still_there(id); slept += 10) {
        pthread_mutex_unlock(&lock);
        usleep((ms - slept < 10 ? (unsigned)(ms - slept) : 10) * 1000);
        pthread_mutex_lock(&lock);
    }
}

static Return enter(const char *call, Handle handle, int index, Target *t)
{
    pthread_mutex_lock(&lock);
    *t = (Target){.world = world_now(), .index = index};
    if (!inits && strncmp(call, "nvmlInit", 8))
        return UNINITIALIZED;
    if (handle && !resolve(handle, t))
        return INVALID_ARGUMENT;
    const Fail *rule = rule_for(call, t);
    if (rule) {
        int code = rule->code;
        if (rule->delay_ms) {
            sleep_for(rule->delay_ms, rule->id);
            *t = (Target){.world = world_now(), .index = index};
            if (handle && !resolve(handle, t))
                return INVALID_ARGUMENT;
        }
        return code;
    }
    return OK;
}

static void leave(const Return *unused)
{
    (void)unused;
    pthread_mutex_unlock(&lock);
}

#define ENTER(handle, index)                                                                      \
    Target t;                                                                                     \
    __attribute__((cleanup(leave))) Return failed = enter(__func__, (handle), (index), &t);       \
    if (failed)                                                                                   \
        return failed;

#define ENTER_DEVICE(handle)                                                                      \
    ENTER((handle) ? (handle) : (Handle)1, -1) /* NULL is an invalid argument */

/* On one that was not stated, or that only a whole GPU has. */
#define NEED(stated)                                                                              \
    if (!(stated))                                                                                \
        return NOT_SUPPORTED;
#define NEED_WHOLE NEED(!t.mig)
#define NEED_NO_MIG NEED(!t.mig && t.gpu->mig_mode != 1)

static u64 now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (u64)now.tv_sec * 1000000 + (u64)now.tv_nsec / 1000;
}

static Return text(char *out, unsigned size, const char *value)
{
    if (strlen(value) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return OK;
}

/* --- the library and the system ------------------------------------------------------------ */

static Return init(const char *call)
{
    Target t;
    Return failed = enter(call, NO_DEVICE, -1, &t);
    if (!failed)
        failed = t.world->readable ? t.world->init_code : DRIVER_NOT_LOADED;
    if (!failed)
        inits++;
    pthread_mutex_unlock(&lock);
    return failed;
}

Return nvmlInitWithFlags(unsigned flags) { (void)flags; return init(__func__); }
Return nvmlInit_v2(void) { return init(__func__); }
Return nvmlInit(void) { return init(__func__); }

Return nvmlShutdown(void)
{
    ENTER(NO_DEVICE, -1)
    inits--;
    return OK;
}

const char *nvmlErrorString(Return code)
{
    static char message[48];
    snprintf(message, sizeof message, "error %d of the fake library", code);
    return message;
}

Return nvmlSystemGetDriverVersion(char *version, unsigned size)
{
    ENTER(NO_DEVICE, -1)
    return text(version, size, t.world->driver);
}

Return nvmlSystemGetNVMLVersion(char *version, unsigned size)
{
    ENTER(NO_DEVICE, -1)
    char value[96];
    snprintf(value, sizeof value, "12.%s", t.world->driver);
    return text(version, size, value);
}

Return nvmlSystemGetCudaDriverVersion(int *version)
{
    ENTER(NO_DEVICE, -1)
    *version = (int)t.world->cuda;
    return OK;
}

Return nvmlDeviceGetCount_v2(unsigned *count)
{
    ENTER(NO_DEVICE, -1)
    *count = (unsigned)t.world->n_gpus;
    return OK;
}

/* --- what a device is ----------------------------------------------------------------------- */

Return nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle *device)
{
    ENTER(NO_DEVICE, (int)index)
    if (index >= (unsigned)t.world->n_gpus)
        return INVALID_ARGUMENT;
    *device = handle_of((int)index, NULL);
    return OK;
}

Return nvmlDeviceGetHandleByUUID(const char *uuid, Handle *device)
{
    ENTER(NO_DEVICE, -1)
    for (int g = 0; g < t.world->n_gpus; g++) {
        const Gpu *gpu = &t.world->gpus[g];
        if (!strcmp(uuid, gpu->uuid)) {
            *device = handle_of(g, NULL);
            return OK;
        }
        for (int k = 0; k < MAX_MIG && gpu->mig_mode == 1; k++)
            if (gpu->mig[k].present && !strcmp(uuid, gpu->mig[k].uuid)) {
                *device = handle_of(g, &gpu->mig[k]);
                return OK;
            }
    }
    return NOT_FOUND;
}

typedef struct {
    char busIdLegacy[16];
    unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} PciInfo;

Return nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, Handle *device)
{
    ENTER(NO_DEVICE, -1)
    for (int g = 0; g < t.world->n_gpus; g++) {
        char mine[32];
        snprintf(mine, sizeof mine, "%08X:%02X:00.0", 0u, (unsigned)t.world->gpus[g].bus);
        if (!strcasecmp(bus_id, mine)) {
            *device = handle_of(g, NULL);
            return OK;
        }
    }
    return NOT_FOUND;
}

Return nvmlDeviceGetPciInfo_v3(Handle device, PciInfo *pci)
{
    ENTER_DEVICE(device)
    memset(pci, 0, sizeof *pci);
    pci->bus = (unsigned)t.gpu->bus;
    pci->pciDeviceId = 0x233010DE;
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:00.0", 0u, pci->bus & 0xFF);
    snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:00.0", 0u, pci->bus & 0xFF);
    return OK;
}

Return nvmlDeviceGetName(Handle device, char *name, unsigned size)
{
    ENTER_DEVICE(device)
    char value[160];
    snprintf(value, sizeof value, "%s%s%s", t.gpu->name, t.mig ? " MIG " : "",
             t.mig ? t.mig->profile : "");
    NEED(!t.mig || t.mig->profile[0])
    return text(name, size, value);
}

Return nvmlDeviceGetUUID(Handle device, char *uuid, unsigned size)
{
    ENTER_DEVICE(device)
    return text(uuid, size, t.mig ? t.mig->uuid : t.gpu->uuid);
}

Return nvmlDeviceGetIndex(Handle device, unsigned *index)
{
    ENTER_DEVICE(device)
    *index = t.mig ? t.mig->slot : (unsigned)t.index;
    return OK;
}

Return nvmlDeviceGetMinorNumber(Handle device, unsigned *minor)
{
    ENTER_DEVICE(device)
    NEED_WHOLE
    *minor = (unsigned)t.gpu->minor;
    return OK;
}

Return nvmlDeviceGetCudaComputeCapability(Handle device, int *major, int *minor)
{
    ENTER_DEVICE(device)
    *major = t.gpu->gpm.known ? 9 : 8;
    *minor = 0;
    return OK;
}

/* --- memory ---------------------------------------------------------------------------------- */

typedef struct { u64 total, free, used; } Memory1;
typedef struct { unsigned version; u64 total, reserved, free, used; } Memory2;

static const Memory *memory_of(const Target *t) { return t->mig ? &t->mig->memory : &t->gpu->memory; }

Return nvmlDeviceGetMemoryInfo(Handle device, Memory1 *out)
{
    ENTER_DEVICE(device)
    const Memory *m = memory_of(&t);
    NEED(m->known)
    *out = (Memory1){m->total, m->total - m->used - m->reserved, m->used + m->reserved};
    return OK;
}

Return nvmlDeviceGetMemoryInfo_v2(Handle device, Memory2 *out)
{
    ENTER_DEVICE(device)
    if (out->version != (2u << 24 | sizeof *out))
        return VERSION_MISMATCH;
    const Memory *m = memory_of(&t);
    NEED(m->known)
    *out = (Memory2){out->version, m->total, m->reserved, m->total - m->used - m->reserved, m->used};
    return OK;
}

typedef struct { u64 total, free, used; } Bar1;

Return nvmlDeviceGetBAR1MemoryInfo(Handle device, Bar1 *out)
{
    ENTER_DEVICE(device)
    NEED_WHOLE
    *out = (Bar1){128ULL << 30, 127ULL << 30, 1ULL << 30};
    return OK;
}

/* --- activity --------------------------------------------------------------------------------- */

typedef struct { unsigned gpu, memory; } Utilization;
typedef union { double d; unsigned u; u64 ull; } Value;
typedef struct { u64 at_us; Value value; } Sample;

Return nvmlDeviceGetUtilizationRates(Handle device, Utilization *out)
{
    ENTER_DEVICE(device)
    NEED_NO_MIG
    NEED(t.gpu->has_util)
    *out = (Utilization){t.gpu->util_gpu, t.gpu->util_memory};
    return OK;
}

/* A sample falls due each sixth of a second of the wall clock; every sixth shows the peak. The
 * buffer holds the last 120, and a first call without a buffer is told its size. */
Return nvmlDeviceGetSamples(Handle device, int type, u64 last_seen, int *value_type,
                            unsigned *count, Sample *out)
{
    enum { TICK_US = 166667, BUFFER = 120, GPU_UTILIZATION = 1 };
    ENTER_DEVICE(device)
    NEED_NO_MIG
    NEED(t.gpu->has_samples && type == GPU_UTILIZATION)
    *value_type = 1; /* unsigned int */
    if (!out) {
        *count = BUFFER;
        return OK;
    }
    u64 newest = now_us() / TICK_US, oldest = newest - BUFFER + 1, tick = last_seen / TICK_US + 1;
    unsigned n = 0;
    for (tick = tick < oldest ? oldest : tick; tick <= newest && n < *count; tick++) {
        memset(&out[n], 0, sizeof out[n]);
        out[n].at_us = tick * TICK_US;
        out[n++].value.u = tick % 6 ? t.gpu->sample_level : t.gpu->sample_peak;
    }
    *count = n;
    return n ? OK : NOT_FOUND;
}

typedef struct { unsigned pid; u64 at_us; unsigned sm, mem, enc, dec; } ProcessSample;

Return nvmlDeviceGetProcessUtilization(Handle device, ProcessSample *out, unsigned *count,
                                       u64 last_seen)
{
    (void)last_seen;
    ENTER_DEVICE(device)
    NEED_NO_MIG
    unsigned room = out ? *count : 0, n = 0;
    for (int k = 0; k < t.gpu->n_procs; k++)
        if (t.gpu->procs[k].sm) {
            if (n < room)
                out[n] = (ProcessSample){t.gpu->procs[k].pid, now_us(), t.gpu->procs[k].sm, 0, 0, 0};
            n++;
        }
    *count = n;
    return !n ? NOT_FOUND : n > room ? INSUFFICIENT_SIZE : OK;
}

typedef struct { u64 at_us; unsigned pid, sm, mem, enc, dec, jpg, ofa; } ProcessSample1;
typedef struct { unsigned version, count; u64 last_seen; ProcessSample1 *out; } ProcessSamples1;

Return nvmlDeviceGetProcessesUtilizationInfo(Handle device, ProcessSamples1 *info)
{
    ENTER_DEVICE(device)
    if (info->version != (1u << 24 | sizeof *info))
        return VERSION_MISMATCH;
    NEED_NO_MIG
    unsigned room = info->out ? info->count : 0, n = 0;
    for (int k = 0; k < t.gpu->n_procs; k++) {
        const Proc *p = &t.gpu->procs[k];
        if (n < room)
            info->out[n] = (ProcessSample1){now_us(), p->pid, p->sm, 0, 0, 0, 0, 0};
        n++;
    }
    info->count = n;
    return !n ? NOT_FOUND : n > room ? INSUFFICIENT_SIZE : OK;
}

#define CODEC(name)                                                                               \
    Return name(Handle device, unsigned *percent, unsigned *period_us)                            \
    {                                                                                             \
        ENTER_DEVICE(device)                                                                      \
        NEED_NO_MIG                                                                               \
        *percent = 0;                                                                             \
        *period_us = 167000;                                                                      \
        return OK;                                                                                \
    }

CODEC(nvmlDeviceGetEncoderUtilization)
CODEC(nvmlDeviceGetDecoderUtilization)

/* --- GPM --------------------------------------------------------------------------------------- */

typedef struct { unsigned version, supported; } GpmSupport;
typedef struct { bool taken; int gpu; unsigned gi; u64 at_us; Gpm values; } GpmSample;
typedef struct { unsigned id; Return code; double value; const char *names[3]; } GpmMetric;
typedef struct { unsigned version, n; GpmSample *from, *to; GpmMetric metrics[]; } GpmMetrics;

Return nvmlGpmQueryDeviceSupport(Handle device, GpmSupport *out)
{
    ENTER_DEVICE(device)
    if (out->version != 1)
        return VERSION_MISMATCH;
    out->supported = t.gpu->gpm.known;
    for (int k = 0; k < MAX_MIG; k++)
        out->supported |= t.gpu->mig[k].gpm.known;
    return OK;
}

Return nvmlGpmSampleAlloc(GpmSample **out)
{
    ENTER(NO_DEVICE, -1)
    *out = calloc(1, sizeof **out);
    return OK;
}

Return nvmlGpmSampleFree(GpmSample *sample)
{
    ENTER(NO_DEVICE, -1)
    free(sample);
    return OK;
}

Return nvmlGpmSampleGet(Handle device, GpmSample *out)
{
    ENTER_DEVICE(device)
    const Gpm *values = t.mig ? &t.mig->gpm : &t.gpu->gpm;
    NEED(values->known)
    *out = (GpmSample){true, t.index, t.mig ? t.mig->gi : NONE, now_us(), *values};
    return OK;
}

Return nvmlGpmMigSampleGet(Handle device, unsigned gi, GpmSample *out)
{
    ENTER_DEVICE(device)
    for (int k = 0; k < MAX_MIG; k++)
        if (t.gpu->mig_mode == 1 && t.gpu->mig[k].present && t.gpu->mig[k].gi == gi) {
            NEED(t.gpu->mig[k].gpm.known)
            *out = (GpmSample){true, t.index, gi, now_us(), t.gpu->mig[k].gpm};
            return OK;
        }
    return INVALID_ARGUMENT;
}

/* The array's length differs between versions of the header that all call themselves 1, so
 * only the `n` entries that were asked are touched. */
Return nvmlGpmMetricsGet(GpmMetrics *get)
{
    ENTER(NO_DEVICE, -1)
    if (get->version != 1)
        return VERSION_MISMATCH;
    const GpmSample *from = get->from, *to = get->to;
    if (!from || !to || !from->taken || !to->taken || from->gpu != to->gpu ||
        from->gi != to->gi || to->at_us < from->at_us + 100000)
        return INVALID_ARGUMENT;
    for (unsigned k = 0; k < get->n; k++) {
        GpmMetric *m = &get->metrics[k];
        const Gpm *v = &to->values;
        m->code = OK;
        switch (m->id) {
        case 1: m->value = v->graphics; break;
        case 2: m->value = v->sm; break;
        case 3: m->value = v->occupancy; break;
        case 5: m->value = v->tensor; break;
        case 10: m->value = v->dram; break;
        default: m->code = NOT_SUPPORTED;
        }
        if (m->value < 0) /* how the scenario says that this metric is missing */
            m->code = NOT_SUPPORTED;
    }
    return OK;
}

/* --- power, heat, clocks ------------------------------------------------------------------------ */

static u64 energy_mj(const Gpu *gpu)
{
    u64 now = now_us(), since = now > gpu->energy_at_us ? now - gpu->energy_at_us : 0;
    return gpu->energy_mj + (u64)((double)gpu->power_mw * (double)since / 1e6);
}

Return nvmlDeviceGetPowerUsage(Handle device, unsigned *mw)
{
    ENTER_DEVICE(device)
    NEED_WHOLE
    NEED(t.gpu->has_power)
    *mw = t.gpu->power_mw;
    return OK;
}

Return nvmlDeviceGetPowerManagementLimit(Handle device, unsigned *mw)
{
    ENTER_DEVICE(device)
    NEED_WHOLE
    NEED(t.gpu->has_power)
    *mw = 700000;
    return OK;
}

Return nvmlDeviceGetTotalEnergyConsumption(Handle device, u64 *mj)
{
    ENTER_DEVICE(device)
    NEED_WHOLE
    NEED(t.gpu->has_energy)
    *mj = energy_mj(t.gpu);
    return OK;
}

typedef struct {
    unsigned id, scope;
    long long at_us, latency_us;
    int value_type;
    Return code;
    Value value;
} Field;

Return nvmlDeviceGetFieldValues(Handle device, int n, Field *fields)
{
    ENTER_DEVICE(device)
    for (int k = 0; k < n; k++) {
        Field *f = &fields[k];
        bool known = false;
        f->value.ull = 0;
        switch (f->id) {
        case 83: known = t.gpu->has_energy; f->value.ull = energy_mj(t.gpu); f->value_type = 3; break;
        case 185:
        case 186: known = t.gpu->has_power; f->value.u = t.gpu->power_mw; f->value_type = 1; break;
        case 230: known = t.gpu->has_recovery; f->value.u = t.gpu->recovery; f->value_type = 1; break;
        }
        f->code = known && !t.mig ? OK : NOT_SUPPORTED;
        f->at_us = (long long)now_us();
        f->latency_us = 0;
    }
    return OK;
}

Return nvmlDeviceGetTemperature(Handle device, int sensor, unsigned *celsius)
{
    ENTER_DEVICE(device)
    NEED_WHOLE
    NEED(t.gpu->has_temperature && sensor == 0)
    *celsius = t.gpu->temperature;
    return OK;
}

typedef struct { unsigned version; int sensor; int celsius; } Temperature1;

Return nvmlDeviceGetTemperatureV(Handle device, Temperature1 *out)
{
    ENTER_DEVICE(device)
    if (out->version != (1u << 24 | sizeof *out))
        return VERSION_MISMATCH;
    NEED_WHOLE
    NEED(t.gpu->has_temperature && out->sensor == 0)
    out->celsius = (int)t.gpu->temperature;
    return OK;
}

Return nvmlDeviceGetClockInfo(Handle device, int type, unsigned *mhz)
{
    ENTER_DEVICE(device)
    NEED_WHOLE
    NEED(t.gpu->has_clock)
    *mhz = type == 2 ? t.gpu->mem_mhz : t.gpu->sm_mhz;
    return OK;
}

Return nvmlDeviceGetMaxClockInfo(Handle device, int type, unsigned *mhz)
{
    ENTER_DEVICE(device)
    NEED_WHOLE
    *mhz = type == 2 ? 2619 : 1980;
    return OK;
}

/* What nvitop asks beyond that: the same on every device, or not there, as on passive cards. */
#define FIXED(name, value)                                                                        \
    Return name(Handle device, unsigned *out)                                                     \
    {                                                                                             \
        ENTER_DEVICE(device)                                                                      \
        NEED_WHOLE                                                                                \
        *out = (value);                                                                           \
        return OK;                                                                                \
    }

FIXED(nvmlDeviceGetPerformanceState, 0)
FIXED(nvmlDeviceGetPersistenceMode, 1)
FIXED(nvmlDeviceGetComputeMode, 0)
FIXED(nvmlDeviceGetDisplayMode, 0)
FIXED(nvmlDeviceGetDisplayActive, 0)

Return nvmlDeviceGetPcieThroughput(Handle device, int counter, unsigned *kib_per_second)
{
    (void)counter;
    ENTER_DEVICE(device)
    NEED_NO_MIG
    *kib_per_second = 0;
    return OK;
}

Return nvmlDeviceGetDriverModel(Handle device, int *current, int *pending)
{
    (void)current, (void)pending; /* Windows only */
    ENTER_DEVICE(device)
    return NOT_SUPPORTED;
}

Return nvmlDeviceGetFanSpeed(Handle device, unsigned *percent)
{
    (void)percent;
    ENTER_DEVICE(device)
    return NOT_SUPPORTED;
}

/* --- processes ------------------------------------------------------------------------------------ */

typedef struct { unsigned pid; u64 bytes; unsigned gi, ci; } ProcInfo;
typedef struct { ProcInfo info; u64 protected_bytes; } WideProcInfo;

/* `wide`: the entries that drivers 535.43 to below 535.86 wrote, eight bytes longer than callers
 * think, so that a second entry is read from the middle of the first. */
static Return procs(const char *call, Handle device, unsigned kind, bool wide, unsigned *count,
                    void *out)
{
    Target t;
    __attribute__((cleanup(leave))) Return failed = enter(call, device, -1, &t);
    if (failed)
        return failed;
    wide = wide && t.gpu->wide_procs;
    unsigned room = out ? *count : 0, n = 0;
    for (int k = 0; k < t.gpu->n_procs; k++) {
        const Proc *p = &t.gpu->procs[k];
        if (p->kind != kind || (t.mig && (p->gi != t.mig->gi || p->ci != t.mig->ci)))
            continue;
        ProcInfo info = {p->pid, p->bytes, p->gi, p->ci};
        if (n < room && wide)
            ((WideProcInfo *)out)[n] = (WideProcInfo){info, 0};
        else if (n < room)
            ((ProcInfo *)out)[n] = info;
        n++;
    }
    *count = n;
    return n > room ? INSUFFICIENT_SIZE : OK;
}

#define PROCS(name, kind, wide)                                                                   \
    Return name(Handle device, unsigned *count, void *out)                                        \
    {                                                                                             \
        return procs(__func__, device ? device : (Handle)1, (kind), (wide), count, out);          \
    }

PROCS(nvmlDeviceGetComputeRunningProcesses_v3, COMPUTE, true)
PROCS(nvmlDeviceGetComputeRunningProcesses_v2, COMPUTE, false)
PROCS(nvmlDeviceGetGraphicsRunningProcesses_v3, GRAPHICS, true)
PROCS(nvmlDeviceGetGraphicsRunningProcesses_v2, GRAPHICS, false)
PROCS(nvmlDeviceGetMPSComputeRunningProcesses_v3, MPS, true)
PROCS(nvmlDeviceGetMPSComputeRunningProcesses_v2, MPS, false)

/* --- MIG --------------------------------------------------------------------------------------------- */

Return nvmlDeviceGetMigMode(Handle device, unsigned *current, unsigned *pending)
{
    ENTER_DEVICE(device)
    NEED(!t.mig && t.gpu->mig_mode >= 0)
    *current = *pending = (unsigned)t.gpu->mig_mode;
    return OK;
}

Return nvmlDeviceIsMigDeviceHandle(Handle device, unsigned *is_mig)
{
    ENTER_DEVICE(device)
    *is_mig = t.mig != NULL;
    return OK;
}

Return nvmlDeviceGetMaxMigDeviceCount(Handle device, unsigned *count)
{
    ENTER_DEVICE(device)
    *count = t.gpu->mig_mode >= 0 ? t.gpu->max_mig : 0;
    return OK;
}

Return nvmlDeviceGetMigDeviceHandleByIndex(Handle device, unsigned slot, Handle *out)
{
    ENTER_DEVICE(device)
    NEED(t.gpu->mig_mode >= 0)
    if (slot >= t.gpu->max_mig)
        return INVALID_ARGUMENT;
    if (t.gpu->mig_mode != 1 || slot >= MAX_MIG || !t.gpu->mig[slot].present)
        return NOT_FOUND;
    *out = handle_of(t.index, &t.gpu->mig[slot]);
    return OK;
}

Return nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Handle mig, Handle *device)
{
    ENTER_DEVICE(mig)
    if (!t.mig)
        return INVALID_ARGUMENT;
    *device = handle_of(t.index, NULL);
    return OK;
}

Return nvmlDeviceGetGpuInstanceId(Handle device, unsigned *gi)
{
    ENTER_DEVICE(device)
    NEED(t.mig)
    *gi = t.mig->gi;
    return OK;
}

Return nvmlDeviceGetComputeInstanceId(Handle device, unsigned *ci)
{
    ENTER_DEVICE(device)
    NEED(t.mig)
    *ci = t.mig->ci;
    return OK;
}

Return nvmlDeviceGetGpuInstanceById(Handle device, unsigned gi, Handle *out)
{
    ENTER_DEVICE(device)
    NEED_WHOLE
    for (int k = 0; k < MAX_MIG; k++)
        if (t.gpu->mig[k].present && t.gpu->mig[k].gi == gi) {
            *out = handle_of(t.index, &t.gpu->mig[k]);
            return OK;
        }
    return NOT_FOUND;
}

typedef struct { Handle device; unsigned id, profile, start, size; } InstanceInfo;

Return nvmlGpuInstanceGetInfo(Handle instance, InstanceInfo *out)
{
    ENTER_DEVICE(instance)
    NEED(t.mig && t.mig->placement >= 0)
    *out = (InstanceInfo){handle_of(t.index, NULL), t.mig->gi, 0, (unsigned)t.mig->placement, 1};
    return OK;
}

typedef struct {
    unsigned sms, copy, decoders, encoders, jpegs, ofas, gi_slices, ci_slices;
    u64 memory_mb;
} Attributes;

Return nvmlDeviceGetAttributes_v2(Handle device, Attributes *out)
{
    ENTER_DEVICE(device)
    NEED(t.mig)
    *out = (Attributes){t.mig->sms, 1, 0, 0, 0, 0, t.mig->gi_slices, t.mig->ci_slices,
                        t.mig->memory.total >> 20};
    return OK;
}

typedef struct {
    unsigned id, p2p, slices, instances, sms, copy, decoders, encoders, jpegs, ofas;
    u64 memory_mb;
} Profile1;

/* Profiles 0 to 6 are those of 1, 2, 3, 4, 7, 8 and 6 slices. */
static Return profile(const Target *t, unsigned id, Profile1 *out)
{
    static const unsigned slices[] = {1, 2, 3, 4, 7, 8, 6};
    NEED(t->gpu->mig_mode >= 0 && !t->mig)
    if (id >= sizeof slices / sizeof *slices || slices[id] > t->gpu->mig_slices)
        return NOT_SUPPORTED;
    memset(out, 0, sizeof *out);
    out->id = id;
    out->slices = slices[id];
    out->instances = t->gpu->mig_slices / slices[id];
    out->memory_mb = (t->gpu->memory.total >> 20) * slices[id] / 8;
    return OK;
}

Return nvmlDeviceGetGpuInstanceProfileInfo(Handle device, unsigned id, Profile1 *out)
{
    ENTER_DEVICE(device)
    return profile(&t, id, out);
}

/* The versioned one: the same fields after `version`, so `memory_mb` sits elsewhere. */
typedef struct {
    unsigned version, id, p2p, slices, instances, sms, copy, decoders, encoders, jpegs, ofas;
    u64 memory_mb;
    char name[96];
} Profile2;

Return nvmlDeviceGetGpuInstanceProfileInfoV(Handle device, unsigned id, Profile2 *out)
{
    ENTER_DEVICE(device)
    if (out->version != (2u << 24 | sizeof *out))
        return VERSION_MISMATCH;
    Profile1 info;
    Return code = profile(&t, id, &info);
    if (code)
        return code;
    *out = (Profile2){.version = out->version, .id = info.id, .slices = info.slices,
                      .instances = info.instances, .memory_mb = info.memory_mb};
    snprintf(out->name, sizeof out->name, "MIG %ug", info.slices);
    return OK;
}

/* --- health and events --------------------------------------------------------------------------------- */

Return nvmlDeviceGetRemappedRows(Handle device, unsigned *corrected, unsigned *uncorrected,
                                 unsigned *pending, unsigned *failure)
{
    ENTER_DEVICE(device)
    NEED_NO_MIG
    NEED(t.gpu->has_rows)
    *corrected = t.gpu->rows[0];
    *uncorrected = t.gpu->rows[1];
    *pending = t.gpu->rows[2];
    *failure = t.gpu->rows[3];
    return OK;
}

Return nvmlDeviceGetTotalEccErrors(Handle device, int type, int counter, u64 *count)
{
    (void)counter;
    ENTER_DEVICE(device)
    NEED_WHOLE
    NEED(t.gpu->has_ecc)
    *count = type ? t.gpu->ecc_uncorrected : t.gpu->ecc_corrected;
    return OK;
}

enum { EVENT_XID = 8 };
typedef struct { u64 last_seq[MAX_GPUS]; bool registered[MAX_GPUS]; } EventSet;
typedef struct { Handle device; u64 type, data; unsigned gi, ci; } EventData;

Return nvmlEventSetCreate(EventSet **out)
{
    ENTER(NO_DEVICE, -1)
    *out = calloc(1, sizeof **out);
    return OK;
}

Return nvmlEventSetFree(EventSet *set)
{
    ENTER(NO_DEVICE, -1)
    free(set);
    return OK;
}

Return nvmlDeviceGetSupportedEventTypes(Handle device, u64 *types)
{
    ENTER_DEVICE(device)
    *types = EVENT_XID;
    return OK;
}

/* Events from before the registration are not told, as on a real driver. */
Return nvmlDeviceRegisterEvents(Handle device, u64 types, EventSet *set)
{
    ENTER_DEVICE(device)
    NEED(types == EVENT_XID)
    set->registered[t.index] = true;
    for (int k = 0; k < t.world->n_events; k++)
        if (t.world->events[k].gpu == (unsigned)t.index &&
            t.world->events[k].seq > set->last_seq[t.index])
            set->last_seq[t.index] = t.world->events[k].seq;
    return OK;
}

Return nvmlEventSetWait_v2(EventSet *set, EventData *out, unsigned timeout_ms)
{
    for (unsigned waited = 0;; waited += 10) {
        {
            ENTER(NO_DEVICE, -1)
            for (int k = 0; k < t.world->n_events; k++) {
                const Event *e = &t.world->events[k];
                if (e->gpu >= MAX_GPUS || !set->registered[e->gpu] || e->seq <= set->last_seq[e->gpu])
                    continue;
                set->last_seq[e->gpu] = e->seq;
                *out = (EventData){handle_of((int)e->gpu, NULL), EVENT_XID, e->xid, e->gi, NONE};
                return OK;
            }
        }
        if (waited >= timeout_ms)
            return TIMEOUT;
        usleep(10000);
    }
}

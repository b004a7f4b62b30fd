/* Reading the scenario: one fact a line, `key=value` pairs, unknown lines ignored. */
#define _GNU_SOURCE
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Where a played node's containers have it; a program started by `exec` lacks the environment. */
#define USUAL_SCENARIO "/run/played-gpus/scenario"

static World *world;

/* The number after ` key=`, or `otherwise`. */
static double number(const char *line, const char *key, double otherwise)
{
    char token[32];
    snprintf(token, sizeof token, " %s=", key);
    const char *at = strstr(line, token);
    return at ? strtod(at + strlen(token), NULL) : otherwise;
}

/* The same for integers that a double cannot hold. */
static u64 whole(const char *line, const char *key, u64 otherwise)
{
    char token[32];
    snprintf(token, sizeof token, " %s=", key);
    const char *at = strstr(line, token);
    return at ? strtoull(at + strlen(token), NULL, 10) : otherwise;
}

static void word(const char *line, const char *key, char *out, size_t size)
{
    char token[32];
    snprintf(token, sizeof token, " %s=", key);
    const char *at = strstr(line, token);
    out[0] = 0;
    if (at)
        snprintf(out, size, "%.*s", (int)strcspn(at + strlen(token), " "), at + strlen(token));
}

static Memory memory(const char *line)
{
    return (Memory){true, whole(line, "total", 0), whole(line, "reserved", 0),
                    whole(line, "used", 0)};
}

static Gpm gpm(const char *line)
{
    return (Gpm){true,
                 number(line, "graphics", 0), number(line, "sm", 0), number(line, "occupancy", 0),
                 number(line, "tensor", 0), number(line, "dram", 0)};
}

/* FNV-1a over what makes an instance the one it is; its handle dies with any of it. */
static u64 instance_key(const Instance *i)
{
    char text[192];
    int n = snprintf(text, sizeof text, "%s %u %u %s", i->uuid, i->gi, i->ci, i->profile);
    u64 hash = 14695981039346656037ULL;
    for (int k = 0; k < n; k++)
        hash = (hash ^ (unsigned char)text[k]) * 1099511628211ULL;
    return (hash & 0xFFFFFFFF) | 1;
}

static void gpu_line(Gpu *g, const char *what, const char *line, const char *rest)
{
    if (!strcmp(what, "name"))
        snprintf(g->name, sizeof g->name, "%s", rest);
    else if (!strcmp(what, "id")) {
        word(line, "uuid", g->uuid, sizeof g->uuid);
        g->minor = (long)number(line, "minor", 0);
        g->bus = (long)number(line, "bus", 1);
        g->mig_mode = (int)number(line, "mig_mode", -1);
        g->mig_slices = (unsigned)number(line, "mig_slices", 7);
        g->max_mig = (unsigned)number(line, "max_mig", 7);
        g->wide_procs = number(line, "wide_procs", 0) != 0;
    } else if (!strcmp(what, "memory"))
        g->memory = memory(line);
    else if (!strcmp(what, "util")) {
        g->has_util = true;
        g->util_gpu = (unsigned)number(line, "gpu", 0);
        g->util_memory = (unsigned)number(line, "memory", 0);
    } else if (!strcmp(what, "samples")) {
        g->has_samples = true;
        g->sample_level = (unsigned)number(line, "level", 0);
        g->sample_peak = (unsigned)number(line, "peak", g->sample_level);
    } else if (!strcmp(what, "gpm")) {
        double gi = number(line, "gi", -1);
        if (gi < 0)
            g->gpm = gpm(line);
        for (int k = 0; gi >= 0 && k < MAX_MIG; k++)
            if (g->mig[k].present && g->mig[k].gi == (unsigned)gi)
                g->mig[k].gpm = gpm(line);
    } else if (!strcmp(what, "power")) {
        g->has_power = true;
        g->power_mw = (unsigned)number(line, "mw", 0);
    } else if (!strcmp(what, "energy")) {
        g->has_energy = true;
        g->energy_mj = whole(line, "mj", 0);
        g->energy_at_us = whole(line, "at_us", 0);
    } else if (!strcmp(what, "temperature")) {
        g->has_temperature = true;
        g->temperature = (unsigned)number(line, "celsius", 0);
    } else if (!strcmp(what, "clock")) {
        g->has_clock = true;
        g->sm_mhz = (unsigned)number(line, "sm", 0);
        g->mem_mhz = (unsigned)number(line, "mem", 0);
    } else if (!strcmp(what, "rows")) {
        g->has_rows = true;
        g->rows[0] = (unsigned)number(line, "corrected", 0);
        g->rows[1] = (unsigned)number(line, "uncorrected", 0);
        g->rows[2] = (unsigned)number(line, "pending", 0);
        g->rows[3] = (unsigned)number(line, "failure", 0);
    } else if (!strcmp(what, "ecc")) {
        g->has_ecc = true;
        g->ecc_corrected = whole(line, "corrected", 0);
        g->ecc_uncorrected = whole(line, "uncorrected", 0);
    } else if (!strcmp(what, "recovery")) {
        g->has_recovery = true;
        g->recovery = (unsigned)number(line, "action", 0);
    } else if (!strcmp(what, "mig")) {
        unsigned slot = (unsigned)number(line, "slot", 0);
        if (slot >= MAX_MIG)
            return;
        Instance *i = &g->mig[slot];
        *i = (Instance){.present = true, .slot = slot};
        i->gi = (unsigned)number(line, "gi", 0);
        i->ci = (unsigned)number(line, "ci", 0);
        i->ci_slices = (unsigned)number(line, "ci_slices", 1);
        i->gi_slices = (unsigned)number(line, "gi_slices", 1);
        i->sms = (unsigned)number(line, "sms", 16);
        i->placement = (int)number(line, "placement", -1);
        word(line, "uuid", i->uuid, sizeof i->uuid);
        word(line, "profile", i->profile, sizeof i->profile);
        i->memory = memory(line);
        i->key = instance_key(i);
    } else if (!strcmp(what, "proc") && g->n_procs < MAX_PROCS && !world->hides_processes) {
        Proc *p = &g->procs[g->n_procs++];
        p->pid = (unsigned)whole(line, "pid", 0);
        p->bytes = whole(line, "bytes", ~0ULL);
        p->gi = (unsigned)whole(line, "gi", NONE);
        p->ci = (unsigned)whole(line, "ci", NONE);
        p->kind = (unsigned)number(line, "kind", COMPUTE);
        p->sm = (unsigned)number(line, "sm", 0);
    }
}

/* A driver tells a caller only of processes that have a PID where the caller is. The scenario's
 * PIDs belong to one namespace; where it does not say which, to everybody's. */
static bool elsewhere(u64 namespace)
{
    struct stat mine;
    return namespace && !stat("/proc/self/ns/pid", &mine) && mine.st_ino != namespace;
}

static void line_of(World *w, char *line)
{
    char what[32], rest[256];
    unsigned index;
    line[strcspn(line, "\n")] = 0;
    if (sscanf(line, "gpu %u %31s", &index, what) == 2 && index < MAX_GPUS) {
        if (sscanf(line, "gpu %*u %*s %255[^\n]", rest) != 1)
            rest[0] = 0;
        if ((int)index >= w->n_gpus)
            w->n_gpus = (int)index + 1;
        gpu_line(&w->gpus[index], what, line, rest);
    } else if (!strncmp(line, "driver ", 7))
        snprintf(w->driver, sizeof w->driver, "%.79s", line + 7);
    else if (!strncmp(line, "node ", 5)) {
        w->init_code = (int)number(line, "init", 0);
        w->cuda = (unsigned)number(line, "cuda", 12040);
        w->hides_processes = elsewhere(whole(line, "pidns", 0));
    } else if (!strncmp(line, "xid ", 4) && w->n_events < MAX_EVENTS)
        w->events[w->n_events++] = (Event){
            whole(line, "seq", 0), (unsigned)number(line, "gpu", 0),
            (unsigned)number(line, "code", 0), (unsigned)whole(line, "gi", NONE)};
    else if (!strncmp(line, "fail ", 5) && w->n_fails < MAX_FAILS) {
        Fail *f = &w->fails[w->n_fails++];
        f->id = (unsigned)number(line, "id", 0);
        word(line, "call", f->call, sizeof f->call);
        f->code = (int)number(line, "code", 0);
        f->gpu = (int)number(line, "gpu", -1);
        f->gi = (int)number(line, "gi", -1);
        f->after = whole(line, "after", 0);
        f->times = whole(line, "times", ~0ULL);
        f->delay_ms = whole(line, "delay_ms", 0);
    }
}

const World *world_now(void)
{
    static struct stat seen;
    struct stat now;
    const char *path = getenv("FAKE_NVML_SCENARIO");
    if (!path)
        path = USUAL_SCENARIO;
    if (!world)
        world = calloc(1, sizeof *world);
    if (stat(path, &now)) {
        world->readable = false;
        memset(&seen, 0, sizeof seen);
        return world;
    }
    if (world->readable && now.st_ino == seen.st_ino && now.st_size == seen.st_size &&
        now.st_mtim.tv_sec == seen.st_mtim.tv_sec && now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)
        return world;
    FILE *file = fopen(path, "r");
    if (!file)
        return world;
    seen = now;
    memset(world, 0, sizeof *world);
    world->readable = true;
    world->cuda = 12040;
    char line[1024];
    while (fgets(line, sizeof line, file))
        line_of(world, line);
    fclose(file);
    return world;
}

/* The bare loop that a real-time process is measured beside: sleep to the next multiple of the period, note how late.
   cc -O2 bare_loop.c -o bare_loop; bare_loop PERIOD_NS PRIORITY; a line on the standard input is a slice of N ticks. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    int64_t period = atoll(argv[1]);
    struct sched_param wanted = {.sched_priority = atoi(argv[2])};
    if (wanted.sched_priority > 0) {
        sched_setscheduler(0, SCHED_FIFO, &wanted);
        mlockall(MCL_CURRENT | MCL_FUTURE);
    }
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        int ticks = atoi(line);
        int64_t *late = calloc(ticks, 8), due = now();
        for (int i = 0; i < ticks; i++) {
            due += period;
            struct timespec until = {due / 1000000000LL, due % 1000000000LL};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
            late[i] = now() - due;
            if (late[i] > period) due += late[i] / period * period;
        }
        for (int i = 0; i < ticks; i++) printf("%lld%c", (long long)late[i], i + 1 < ticks ? ' ' : '\n');
        fflush(stdout);
        free(late);
    }
    return 0;
}

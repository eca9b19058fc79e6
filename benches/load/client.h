/* What the clients in C share: the clock, the end after a failed call, and the order of times. */

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Returns the time in microseconds. */
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* Compares two numbers of type float, for qsort(3). */
static int compare(const void *one, const void *other) {
    float a = *(const float *)one, b = *(const float *)other;
    return (a > b) - (a < b);
}

/* QuickFIX's FileStore calls fflush and leaves the rest to the operating system. Loaded before the C
 * library (LD_PRELOAD), this makes every fflush of a regular file synchronise it too, as the journal's
 * commits do, so that both can be measured under one promise. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

int fflush(FILE *file) {
    static int (*flush)(FILE *);
    struct stat what;
    if (!flush)
        *(void **)&flush = dlsym(RTLD_NEXT, "fflush");
    int failed = flush(file);
    if (!failed && file && !fstat(fileno(file), &what) && S_ISREG(what.st_mode))
        failed = fdatasync(fileno(file)) ? EOF : 0;
    return failed;
}

/*
 * Stands where a static program is expected and starts a dynamic one with the
 * loader and libraries that lie beside it in .bundle, so that nothing of the
 * host's is used. It knows which program by its own file's name; what it was
 * called by is handed on, because xtables goes by that.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

static char self[PATH_MAX], bundle[PATH_MAX], loader[PATH_MAX + 16];
static char library[PATH_MAX + 16], plugins[PATH_MAX + 16], program[2 * PATH_MAX];

int main(int argc, char **argv) {
  /* A bare chroot has no /proc; the kernel still tells what was executed. */
  ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  if (length < 0) {
    const char *called = (const char *)getauxval(AT_EXECFN);
    if (called == NULL || realpath(called, self) == NULL) {
      perror("where this program is");
      return 127;
    }
  }
  char *name = strrchr(self, '/') + 1;
  name[-1] = 0;
  snprintf(bundle, sizeof bundle, "%.*s/.bundle", PATH_MAX - 16, self);
  if (access(bundle, X_OK) != 0)
    snprintf(bundle, sizeof bundle, "%.*s/../.bundle", PATH_MAX - 16, self);
  snprintf(loader, sizeof loader, "%s/ld.so", bundle);
  snprintf(library, sizeof library, "%s/lib", bundle);
  snprintf(plugins, sizeof plugins, "%s/xtables", bundle);
  snprintf(program, sizeof program, "%s/bin/%s", bundle, name);

  char **call = calloc((size_t)argc + 8, sizeof *call);
  if (call == NULL || argc < 1)
    return 127;
  int n = 0;
  call[n++] = loader;
  call[n++] = "--inhibit-cache";
  call[n++] = "--library-path";
  call[n++] = library;
  call[n++] = "--argv0";
  call[n++] = argv[0];
  call[n++] = program;
  memcpy(call + n, argv + 1, (size_t)(argc - 1) * sizeof *call);
  unsetenv("LD_PRELOAD");
  unsetenv("LD_LIBRARY_PATH");
  setenv("XTABLES_LIBDIR", plugins, 1);
  execv(loader, call);
  perror(loader);
  return 127;
}

// SPDX-License-Identifier: MIT
/*
 * A file that a program reads back. Byte 0: even, a recording, as plot draws it; odd, a trace, as replay runs
 * it through the policy. The file must be refused with a sentence, or its result must be finite and not
 * larger than the file.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "mutate_json.h"
#include "told.h"
#include "bench/micro/trace.h"
#include "bench/picture/picture.h"

static void draw(const struct timelines *all)
{
	struct groups g = { 0 };
	char *script = NULL;
	size_t len, samples = 0;
	FILE *out = open_memstream(&script, &len);

	for (size_t i = 0; i < all->n; i++) {
		picture_run(out, &all->v[i]);
		samples += all->v[i].end[0].n + all->v[i].end[1].n;
	}
	promise(!groups_make(&g, all), "no memory for groups");
	picture_compare(out, &g);
	groups_free(&g);
	fclose(out);
	promise(len < 200000 * (all->n + 1) + 500 * samples, "pictures of %zu bytes", len);
	free(script);
}

static void recording(const char *name)
{
	struct timelines all = { 0 };
	struct told told;
	int err;

	told_begin(&told);
	err = timelines_load(&all, name);
	promise(told_end(&told) == !!err, "a recording was refused with %d, and the sentence does not fit",
		err);
	if (!err)
		draw(&all);
	timelines_free(&all);
}

static void trace(const char *name)
{
	struct trace *t = malloc(sizeof(*t));
	char why[512] = "";
	struct replay r;

	if (trace_read(t, name, why, sizeof(why))) {
		promise(why[0], "a trace was refused without a sentence");
		told_check(why);
	} else {
		trace_replay(t, &r);
		promise(r.rounds && r.rounds <= t->nrounds && r.result.text[0], "%u rounds of %u", r.rounds,
			t->nrounds);
	}
	free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_before before = fuzz_before();
	int fd = memfd_create("recording", MFD_CLOEXEC);
	char name[64];

	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	promise(fd >= 0 && (size < 2 || write(fd, data + 1, size - 1) == (ssize_t)size - 1), "no memfd");
	if (size && data[0] % 2)
		trace(name);
	else
		recording(name);
	close(fd);
	fuzz_left(&before);
	return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	return mutate_json(data, size, max, 1, seed);
}

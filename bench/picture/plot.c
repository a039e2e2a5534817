/* SPDX-License-Identifier: MIT */
/* rdma-migrate plot: draws recordings as a picture or a page. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "page.h"
#include "bench/cli/commands.h"
#include "bench/cli/report.h"

enum output { OUTPUT_SVG, OUTPUT_PNG, OUTPUT_HTML, OUTPUT_NONE };

static enum output output_of(const char *name)
{
	static const char *const endings[] = { ".svg", ".png", ".html" };
	size_t len = strlen(name);

	for (int i = 0; i < OUTPUT_NONE; i++) {
		size_t n = strlen(endings[i]);

		if (len > n && !strcmp(name + len - n, endings[i]))
			return (enum output)i;
	}
	return OUTPUT_NONE;
}

static int draw_page(const struct timelines *all, const struct groups *g, char **ret, size_t *len)
{
	FILE *out = open_memstream(ret, len);
	int err;

	if (!out)
		return -ENOMEM;
	err = page_write(out, all, g);
	if (fclose(out) && !err)
		err = -ENOMEM;
	return err;
}

static int draw(enum output kind, const struct timelines *all, const struct groups *g, char **ret,
		size_t *len)
{
	enum picture_format f = kind == OUTPUT_PNG ? PICTURE_PNG : PICTURE_SVG;

	if (kind == OUTPUT_HTML)
		return draw_page(all, g, ret, len);
	if (all->n == 1)
		return page_picture(f, 0, &all->v[0], NULL, ret, len);
	return page_picture(f, 0, NULL, g, ret, len);
}

/* The output is opened only when it is complete: drawing may take long, and a signal may end this program. */
static enum verdict write_all(const char *name, const struct timelines *all, const struct groups *g)
{
	char *picture = NULL;
	struct out *out;
	size_t len = 0;
	int err = draw(output_of(name), all, g, &picture, &len);

	if (err) {
		fprintf(stderr, "rdma-migrate: --out %s was not written: %s.\n", name, strerror(-err));
		free(picture);
		return VERDICT_ENVIRONMENT;
	}
	out = out_open("--out", name, OUT_RENAME);
	if (out) {
		fwrite(picture, 1, len, out_file(out));
		err = out_close(out);
	}
	free(picture);
	return out && !err ? VERDICT_OK : VERDICT_OUTPUT;
}

bool plot_check_out(const char *name)
{
	if (output_of(name) != OUTPUT_NONE)
		return out_possible("--out", name, OUT_RENAME);
	fprintf(stderr,
		"rdma-migrate: --out takes a file name that ends in .svg, .png or .html, not \"%s\".\n",
		name);
	return false;
}

int plot_files(char *const *files, unsigned n, const char *name)
{
	struct timelines all = { 0 };
	struct groups g = { 0 };
	int ret = VERDICT_OK;

	for (unsigned i = 0; i < n && ret == VERDICT_OK; i++) {
		if (timelines_load(&all, files[i]))
			ret = VERDICT_USAGE;
	}
	if (ret == VERDICT_OK)
		ret = groups_make(&g, &all) ? VERDICT_ENVIRONMENT : write_all(name, &all, &g);
	groups_free(&g);
	timelines_free(&all);
	return ret;
}

int cmd_plot(const struct options *o)
{
	if (!o->nfiles) {
		fprintf(stderr, "rdma-migrate: plot needs the name of a file that --record wrote.\n");
		return VERDICT_USAGE;
	}
	if (!o->out) {
		fprintf(stderr, "rdma-migrate: plot needs -o FILE.svg, FILE.png or FILE.html.\n");
		return VERDICT_USAGE;
	}
	return plot_check_out(o->out) ? plot_files(o->files, o->nfiles, o->out) : VERDICT_USAGE;
}

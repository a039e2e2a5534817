/* SPDX-License-Identifier: MIT */
/* rdma-migrate doctor: the findings as a table or as JSON, and an exit code for scripts. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "doctor.h"
#include "commands.h"
#include "report.h"

static const char *const health_names[] = { "ok", "works without", "missing" };

void found(struct findings *f, const char *name, enum health h, const char *mend, const char *says, ...)
{
	struct finding *v = &f->v[f->n];
	va_list ap;

	if (f->n == FINDINGS_MAX)
		return;
	f->n++;
	v->name = name;
	v->health = h;
	snprintf(v->mend, sizeof(v->mend), "%s", mend ? mend : "");
	va_start(ap, says);
	vsnprintf(v->says, sizeof(v->says), says, ap);
	va_end(ap);
}

static unsigned count(const struct findings *f, enum health h)
{
	unsigned n = 0;

	for (size_t i = 0; i < f->n; i++)
		n += f->v[i].health == h;
	return n;
}

static void print_table(FILE *out, const struct findings *f)
{
	static const char *const marks[] = { "\033[32m", "\033[33m", "\033[31m" };
	bool tty = isatty(STDOUT_FILENO);

	for (size_t i = 0; i < f->n; i++) {
		const struct finding *v = &f->v[i];

		fprintf(out, "%s%-13s%s  %-20s %s\n", tty ? marks[v->health] : "", health_names[v->health],
			tty ? "\033[0m" : "", v->name, v->says);
		if (v->health != HEALTH_OK && v->mend[0])
			fprintf(out, "%13s  %-20s mend: %s\n", "", "", v->mend);
	}
	fprintf(out, "\n%u ok, %u it works without, %u missing\n", count(f, HEALTH_OK),
		count(f, HEALTH_WITHOUT), count(f, HEALTH_MISSING));
}

static void print_json(FILE *out, const struct findings *f)
{
	fprintf(out, "{\"checks\":[");
	for (size_t i = 0; i < f->n; i++) {
		const struct finding *v = &f->v[i];

		fprintf(out, "%s{", i ? "," : "");
		json_text(out, "name", v->name);
		json_text(out, "state", health_names[v->health]);
		json_text(out, "mend", v->health == HEALTH_OK ? "" : v->mend);
		fprintf(out, "\"says\":");
		json_quoted(out, v->says);
		fprintf(out, "}");
	}
	fprintf(out, "],\"ok\":%u,\"works_without\":%u,\"missing\":%u}\n", count(f, HEALTH_OK),
		count(f, HEALTH_WITHOUT), count(f, HEALTH_MISSING));
}

static void probe_machine(struct findings *f)
{
	probe_kvm(f);
	probe_userfaultfd(f);
	probe_kernel(f);
	probe_memory(f);
	probe_rdma(f);
	probe_links(f);
	probe_tools(f);
}

int cmd_doctor(const struct options *o, const struct outputs *to)
{
	struct findings *f = calloc(1, sizeof(*f));
	int ret;

	if (!f)
		return VERDICT_ENVIRONMENT;
	if (o->qmp)
		probe_qemu(f, o->qmp);
	else
		probe_machine(f);
	if (to->json)
		print_json(out_file(to->json), f);
	if (to->table)
		print_table(out_file(to->table), f);
	ret = count(f, HEALTH_MISSING) ? VERDICT_ENVIRONMENT : VERDICT_OK;
	free(f);
	return ret;
}

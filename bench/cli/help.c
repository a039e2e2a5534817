/* SPDX-License-Identifier: MIT */
/* rdma-migrate help: the commands, and one line per option from the table. */
#include "options_int.h"

static void help_row(FILE *out, const struct option_row *row, bool all)
{
	int width = fprintf(out, "  --%s", row->name);

	for (const char *const *c = row->choices; c && *c; c++)
		width += fprintf(out, "%s%s", c == row->choices ? " " : "|", *c);
	if (row->value == V_SIZE)
		width += fprintf(out, " SIZE");
	if (row->value == V_DURATION)
		width += fprintf(out, " TIME");
	if (row->value == V_COUNT)
		width += fprintf(out, " N");
	if (row->value == V_KILL)
		width += fprintf(out, " WHO@PHASE|MESSAGE[:MS]");
	if (row->value == V_LIST)
		width += fprintf(out, " A,B,...");
	if (row->value == V_TEXT || row->value == V_MANY)
		width += fprintf(out, " %s", row->word ? row->word : "URI");
	fprintf(out, "%*s %s", width < 42 ? 42 - width : 0, "", row->help);
	if (all && row->commands != ENDS) { /* unnamed: run, source, target */
		const char *sep = " (";

		for (enum command c = CMD_RUN; c <= CMD_DOCTOR; c++) {
			if (!(row->commands & (1u << c)))
				continue;
			fprintf(out, "%s%s", sep, command_name(c));
			sep = ", ";
		}
		fprintf(out, ")");
	}
	fprintf(out, "\n");
}

static const char *const synopses[] = {
	[CMD_RUN] = "run [OPTIONS]               both ends on this machine, each in its own process",
	[CMD_TARGET] =
		"target --listen URI [...]   the target, on one of two machines; with --vmm qemu the QEMU's command line follows --",
	[CMD_SOURCE] = "source --to URI [...]       the source, on the other machine",
	[CMD_FLOOR] = "floor [OPTIONS]             measure bare sockets and one userfaultfd on this machine",
	[CMD_SWEEP] =
		"sweep [OPTIONS]             runs of each mode, rate, working set and transport, on one page",
	[CMD_PLOT] = "plot FILE... -o OUT         draw recordings of --record as .svg, .png or .html",
	[CMD_DOCTOR] =
		"doctor [--qmp SOCKET]       check this machine, or a QEMU, and say how to fix what is missing",
	[CMD_VERSION] = "version | help [COMMAND]",
};

void options_help(FILE *out, enum command about)
{
	static const enum command order[] = { CMD_RUN,	 CMD_TARGET, CMD_SOURCE, CMD_FLOOR,
					      CMD_SWEEP, CMD_PLOT,   CMD_DOCTOR, CMD_VERSION };
	bool all = about >= CMD_VERSION, kill = all;

	if (all)
		fprintf(out,
			"rdma-migrate: live-migrate a small KVM guest with libferry, verify every byte and output, and measure.\n\n");
	for (unsigned i = 0; i < sizeof(order) / sizeof(*order); i++)
		if (all || order[i] == about)
			fprintf(out, "  rdma-migrate %s\n", synopses[order[i]]);
	fprintf(out, "\n");
	for (size_t i = 0; i < option_nrows; i++) {
		if (!all && !(option_rows[i].commands & 1u << about))
			continue;
		help_row(out, &option_rows[i], all);
		kill |= option_rows[i].value == V_KILL;
	}
	if (!kill)
		return;
	fprintf(out,
		"\nSIZE: bytes, or with k, M, G, T (powers of 1024). TIME: with us, ms, s.\n"
		"WHO: source, target, link. PHASE: pre-migration, reservation, pre-copy, stop-and-copy, post-copy,\n"
		"commitment, activation. MESSAGE: the first of that name, before WHO sends or reads it:");
	for (unsigned i = 1; ferry_message_name(i); i++)
		fprintf(out, "%s%s", i % 11 == 1 ? "\n" : " ", ferry_message_name(i));
	fprintf(out,
		".\nFigures in MB are 10^6 bytes.\n\n"
		"Exit codes: 0 migrated, or with --kill the outcome that must follow, and the proof is clean;\n"
		"  1 the command line is wrong, or a file that it names cannot be opened; 2 refused, fell back or discarded\n"
		"  without a fault, or the fault of --kill did not occur; 3 the proof failed: bad pages, outputs missing or\n"
		"  repeated, or two owners; 4 in doubt, or the VM was lost; 5 this machine lacks memory, permission for\n"
		"  userfaultfd, a socket or gnuplot; 6 as 0, but standard output or a file could not be written:\n"
		"  stderr says which and why.\n");
}

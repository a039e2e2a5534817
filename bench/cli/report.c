/* SPDX-License-Identifier: MIT */
/* The table for people. MB are 10^6 bytes. */
#include <string.h>
#include <unistd.h>

#include "report.h"
#include "util.h"
#include "vm.h"

const char *tracking_name(enum vmm_tracking by)
{
	static const char *const names[] = { "", "log", "ring", "pagemap" };

	_Static_assert(sizeof(names) / sizeof(*names) == VMM_TRACKING_PAGEMAP + 1, "one name per way");
	return names[by];
}

static void row(FILE *out, const char *name)
{
	fprintf(out, "  %-11s ", name);
}

static void head(FILE *out, const struct run_report *r)
{
	const struct options *o = r->o;
	char drill[64];

	if (o->repeat > 1)
		fprintf(out, "run %llu of %llu: ", (unsigned long long)r->number,
			(unsigned long long)o->repeat);
	fprintf(out, "%s, owner %s; ", r->outcome, ferry_owner_name(r->owner));
	if (!vm_kind(o)->proves)
		fprintf(out, "VMM: %s\n", vmm_name(o->vmm));
	else if (!strcmp(r->mutator, "host-thread"))
		fprintf(out, "mutator: host thread (no /dev/kvm: these figures are not a guest's)\n");
	else
		fprintf(out, "mutator: %s\n", r->mutator[0] ? r->mutator : "unknown");
	if (strcmp(r->host[VMM_END_SOURCE], r->host[VMM_END_TARGET])) {
		row(out, "hosts");
		fprintf(out, "source %s, target %s\n", r->host[0][0] ? r->host[0] : "unknown",
			r->host[1][0] ? r->host[1] : "unknown");
	}
	row(out, "asked");
	if (!vm_kind(o)->proves)
		fprintf(out, "mode %s",
			o->command == CMD_SOURCE || r->whole ? ferry_mode_name((enum ferry_mode)o->mode)
							     : "of the source");
	else if (o->command != CMD_TARGET || r->whole)
		fprintf(out,
			"%lluM %s%s, %llu%% populated, %llu pages/s (%s) over %lluM, %llu vCPU%s, seed %llu, mode %s",
			(unsigned long long)o->memory >> 20, kind_name(o->kind),
			o->thp == THP_ON ? " on huge pages" : "", (unsigned long long)o->populate,
			(unsigned long long)o->dirty_rate, pattern_name(o->pattern),
			(unsigned long long)o->working_set >> 20, (unsigned long long)o->vcpus,
			o->vcpus == 1 ? "" : "s", (unsigned long long)o->seed,
			ferry_mode_name((enum ferry_mode)o->mode));
	else
		fprintf(out, "whatever a source sends");
	if (o->kill.who != KILL_NOBODY)
		fprintf(out, ", kill %s", kill_text(drill, &o->kill));
	fprintf(out, "\n");
}

/* What a target alone knows; unknown values are left out, not printed as 0. */
static void target_alone(FILE *out, const struct run_report *r)
{
	const struct ferry_stats *t = target_stats(r);
	char v[32];

	row(out, "pages");
	fprintf(out, "%s received\n", grouped(v, t->pages_sent));
	row(out, "time");
	fprintf(out, "pre-copy %.1f ms, post-copy %.1f, at the target", (double)t->precopy_us / 1000,
		(double)t->postcopy_us / 1000);
	if (t->reconnects)
		fprintf(out, "; reconnected %u times", t->reconnects);
	fprintf(out, "\n");
}

static void rounds(FILE *out, const struct run_report *r)
{
	char a[32], b[32];

	row(out, "rounds");
	fprintf(out, "%u", r->nrounds);
	for (unsigned i = 0; i < r->nrounds && i < 8; i++)
		fprintf(out, "%s%.1f MB in %.1f ms", i ? ", " : ": ", (double)r->rounds[i].bytes / 1e6,
			(double)r->rounds[i].duration_us / 1000);
	if (r->nrounds > 8)
		fprintf(out, ", ... the last %.1f MB", (double)r->rounds[r->nrounds - 1].bytes / 1e6);
	fprintf(out, "\n");
	for (unsigned i = 0; i < r->npolicy; i++) {
		row(out, "policy");
		fprintf(out, "%s\n", r->policy[i]);
	}
	row(out, "pages");
	fprintf(out, "%s sent, ", grouped(a, source_stats(r)->pages_sent));
	fprintf(out, "%s zero, ", grouped(a, source_stats(r)->pages_zero));
	fprintf(out, "%s holes, %s left to post-copy", grouped(a, source_stats(r)->pages_hole),
		grouped(b, source_stats(r)->pages_residue));
	/* A private huge page is pulled as a whole. */
	if (target_stats(r)->pages_residue > source_stats(r)->pages_residue)
		fprintf(out, ", %s pulled for it", grouped(a, target_stats(r)->pages_residue));
	fprintf(out, "\n");
}

/* The time of each phase, and the rest: connecting before, and the goodbye afterwards. */
static void phases(FILE *out, const struct run_report *r)
{
	const struct ferry_stats *s = source_stats(r), *t = target_stats(r);
	uint64_t stood = r->end[VMM_END_SOURCE].cpu.stood_us, reserve = r->end[VMM_END_SOURCE].cpu.reserve_us,
		 postcopy = only_end(r) == VMM_END_SOURCE ? s->postcopy_us : t->postcopy_us;
	uint64_t sum = reserve + s->precopy_us + (stood ? stood : s->downtime.total_us + postcopy);

	fprintf(out, "%.1f ms: reservation %.1f, pre-copy %.1f, ", (double)s->elapsed_us / 1000,
		(double)reserve / 1000, (double)s->precopy_us / 1000);
	if (stood)
		fprintf(out, "paused for %.2f until it resumed at the source", (double)stood / 1000);
	else
		fprintf(out, "downtime %.2f, post-copy %.1f", (double)s->downtime.total_us / 1000,
			(double)postcopy / 1000);
	if (s->elapsed_us > sum)
		fprintf(out, ", before and after %.1f", (double)(s->elapsed_us - sum) / 1000);
}

static void times(FILE *out, const struct run_report *r)
{
	const struct ferry_stats *s = source_stats(r), *t = target_stats(r);
	const struct ferry_downtime *b = &s->downtime;
	char v[32];

	row(out, "time");
	phases(out, r);
	if (s->reconnects || t->reconnects)
		fprintf(out, "; reconnected %u times",
			s->reconnects > t->reconnects ? s->reconnects : t->reconnects);
	fprintf(out, "\n");
	if (b->total_us) {
		row(out, "downtime");
		fprintf(out,
			"%s us%s = pause %llu + fetch %llu + residue %llu + save %llu + send %llu + arm %llu + "
			"load %llu + resume %llu\n",
			grouped(v, b->total_us),
			r->end[VMM_END_SOURCE].cpu.stood_us ? " until it ran at the target, tentatively" : "",
			(unsigned long long)b->pause_us, (unsigned long long)b->fetch_us,
			(unsigned long long)b->residue_us, (unsigned long long)b->save_us,
			(unsigned long long)b->send_us, (unsigned long long)b->arm_us,
			(unsigned long long)b->load_us, (unsigned long long)b->resume_us);
		if (s->predicted_us) {
			row(out, "predicted");
			fprintf(out, "%s us of downtime, at the end of pre-copy\n",
				grouped(v, s->predicted_us));
		}
	}
	row(out, "throughput");
	fprintf(out, "%.0f MB/s of page data in pre-copy", throughput_mb_s(r));
	if (r->have_floor)
		fprintf(out, "; bare %s %.0f MB/s, ratio %.2f", r->floor.nwrites ? "WRITE" : "socket",
			r->floor.throughput_mb_s, throughput_mb_s(r) / r->floor.throughput_mb_s);
	fprintf(out, "\n");
}

static void landing(FILE *out, const struct run_report *r)
{
	const struct ferry_stats *t = target_stats(r);
	const struct ferry_landing *l = &t->landing[0];

	if (!t->nlandings)
		return;
	row(out, "landing");
	fprintf(out, "by the %s", ferry_landing_name(l->way));
	if (l->mapping_ns)
		fprintf(out, "; measured for 4 KiB: by the mapping %.2f us, by the kernel %.2f us",
			(double)l->mapping_ns / 1000, (double)l->kernel_ns / 1000);
	fprintf(out, "\n");
}

static void tracking(FILE *out, const struct run_report *r)
{
	const struct vmm_tracked *t = &r->end[VMM_END_SOURCE].cpu.tracked;
	char v[32];

	if (t->by == VMM_TRACKING_AUTO)
		return;
	row(out, "tracking");
	fprintf(out, "by %s, fetched in %.2f ms", tracking_name(t->by), (double)t->fetch_ns / 1e6);
	if (t->by == VMM_TRACKING_RING)
		fprintf(out, "; full %llu times; pages of each vCPU:", (unsigned long long)t->ring_full);
	for (uint64_t i = 0; t->by == VMM_TRACKING_RING && i < r->o->vcpus; i++)
		fprintf(out, "%s %s", i ? ";" : "", grouped(v, t->pages[i]));
	fprintf(out, "\n");
}

static void faults(FILE *out, const struct run_report *r)
{
	const struct ferry_stats *t = target_stats(r);
	double p50 = (double)t->fault_p50_ns / 1000, p99 = (double)t->fault_p99_ns / 1000;
	char a[32], b[32];

	if (!t->faults && !t->faults_local)
		return;
	row(out, "faults");
	fprintf(out, "%s over the link (p50 %.1f, p99 %.1f, max %.1f us, %.1f ms in total), %s local",
		grouped(a, t->faults), p50, p99, (double)t->fault_max_ns / 1000,
		(double)t->fault_total_ns / 1e6, grouped(b, t->faults_local));
	if (r->have_floor && t->faults)
		fprintf(out, "; bare fault p50 %.1f, p99 %.1f, ratios %.2f, %.2f", r->floor.fault_p50_us,
			r->floor.fault_p99_us, p50 / r->floor.fault_p50_us, p99 / r->floor.fault_p99_us);
	fprintf(out, "\n");
}

static void huge(FILE *out, const struct run_report *r)
{
	const struct ferry_result *s = &r->end[VMM_END_SOURCE].result, *t = &r->end[VMM_END_TARGET].result;

	if (!s->thp_before && !t->collapse_us)
		return;
	row(out, "huge pages");
	fprintf(out,
		"%llu MiB at the source; at the target %llu MiB with the last page, %llu MiB %.1f ms later\n",
		(unsigned long long)s->thp_before >> 20, (unsigned long long)t->thp_before >> 20,
		(unsigned long long)t->thp_after >> 20, (double)t->collapse_us / 1000);
}

static void cpu(FILE *out, const struct run_report *r)
{
	const struct end_cost *s = &r->end[VMM_END_SOURCE].cpu, *t = &r->end[VMM_END_TARGET].cpu;

	row(out, "cpu");
	if (only_end(r) != VMM_END_TARGET)
		fprintf(out, "source %.0f ms, ", (double)s->run_us / 1000);
	if (only_end(r) != VMM_END_SOURCE)
		fprintf(out, "target %.0f ms, ", (double)t->run_us / 1000);
	fprintf(out, vm_kind(r->o)->proves ? "including the guest" : "without QEMU");
	if (s->postcopy_us && t->postcopy_us)
		fprintf(out, "; in post-copy %.1f and %.1f ms", (double)s->postcopy_us / 1000,
			(double)t->postcopy_us / 1000);
	fprintf(out, "\n");
}

static void proof(FILE *out, const struct run_report *r)
{
	uint64_t seen, missing, repeated;
	char a[32], b[32];

	if (!vm_kind(r->o)->proves)
		return;
	observer_total(&r->observer, &seen, &missing, &repeated);
	row(out, "proof");
	if (r->have_proof && !r->proof_err)
		fprintf(out, "%s pages checked, %llu bad; ", grouped(a, r->proof.pages_checked),
			(unsigned long long)r->proof.pages_bad);
	else
		fprintf(out, "RAM not checked here; ");
	fprintf(out, "%s outputs seen, %llu missing, %llu repeated\n", grouped(b, seen),
		(unsigned long long)missing, (unsigned long long)repeated);
}

void report_table(FILE *out, const struct run_report *r)
{
	int only = only_end(r);

	head(out, r);
	if (r->verdict == VERDICT_ENVIRONMENT) {
		;
	} else if (only >= 0 && !r->end[only].have_result) {
		proof(out, r); /* its measurements died with it */
	} else {
		if (only == VMM_END_TARGET) {
			target_alone(out, r);
		} else {
			rounds(out, r);
			times(out, r);
		}
		tracking(out, r);
		landing(out, r);
		faults(out, r);
		huge(out, r);
		cpu(out, r);
		proof(out, r);
	}
	row(out, "so");
	fprintf(out, "%s\n", r->sentence);
}

static void floor_link(FILE *out, const struct floor *f)
{
	row(out, "throughput");
	if (!f->nwrites) {
		fprintf(out, "%.0f MB/s memory to memory, %.3f CPU seconds per GiB, both ends\n",
			f->throughput_mb_s, f->cpu_s_per_gib);
		row(out, "round trip");
		fprintf(out,
			"%.1f us median, %.1f p99, 16-byte request and 4 KiB answer (polling %.1f, sleeping %.1f)\n",
			f->rtt_us, f->rtt_p99_us, f->rtt_poll_us, f->rtt_sleep_us);
		return;
	}
	for (unsigned i = 0; i < f->nwrites; i++)
		fprintf(out, "%s%.0f MB/s",
			i ? ", " : "WRITEs of 4 KiB, 64 KiB, 1 MiB, 4 MiB: ", f->write[i].mb_s);
	fprintf(out, "\n");
	row(out, "READ");
	fprintf(out, "%.1f us median, %.1f p99, of 4 KiB (polling %.1f, sleeping %.1f)\n", f->rtt_us,
		f->rtt_p99_us, f->rtt_poll_us, f->rtt_sleep_us);
}

void floor_table(FILE *out, const struct floor *f, const struct options *o)
{
	char a[32], b[32];

	fprintf(out, "floor of this machine, %lluM %s, two processes over %s\n",
		(unsigned long long)o->memory >> 20, kind_name(o->kind),
		f->nwrites ? "the bare RDMA device" : "loopback TCP");
	floor_link(out, f);
	row(out, "one fault");
	fprintf(out, "%.1f us median, %.1f p99 from event to page; the faulting thread waited %.1f, %.1f\n",
		f->fault_p50_us, f->fault_p99_us, f->stall_p50_us, f->stall_p99_us);
	if (!o->pull)
		return;
	row(out, "pull");
	fprintf(out,
		"%s of %s pages in %.1f ms, %.2f us each; %llu touched meanwhile, %llu faults, p50 %.1f, p99 %.1f us\n",
		grouped(a, o->pull), grouped(b, o->working_set / 4096), f->pull.total_ms,
		f->pull.total_ms * 1000 / (double)o->pull, (unsigned long long)f->pull.touched,
		(unsigned long long)f->pull.faults, f->pull.fault_p50_us, f->pull.fault_p99_us);
}

void report_progress(FILE *out, const struct run_report *r)
{
	const struct ferry_stats *s = &r->end[VMM_END_SOURCE].live, *t = &r->end[VMM_END_TARGET].live;
	const struct ferry_stats *lead = s->elapsed_us ? s : t;
	uint64_t left = lead->phase == FERRY_PHASE_POSTCOPY && t->elapsed_us ? t->pages_remaining
									     : lead->pages_remaining;

	fprintf(out, "\r\033[K%s round %u  %.0f MB/s  %.1f MB left  %llu pages/s dirty  %llu faults",
		ferry_phase_name(lead->phase), lead->round,
		lead == s ? r->end[VMM_END_SOURCE].live_mb_s : r->end[VMM_END_TARGET].live_mb_s,
		(double)left * 4096 / 1e6, (unsigned long long)lead->dirty_rate,
		(unsigned long long)t->faults);
	fflush(out);
}

void report_progress_end(FILE *out)
{
	fprintf(out, "\r\033[K");
	fflush(out);
}

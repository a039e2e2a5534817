/* SPDX-License-Identifier: MIT */
/* A run as one JSON object on one line. */
#include <string.h>

#include "arbiter.h"
#include "report.h"
#include "vm.h"

void json_quoted(FILE *out, const char *text)
{
	fputc('"', out);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			fprintf(out, "\\%c", *text);
		else if ((unsigned char)*text < 0x20)
			fprintf(out, "\\u%04x", *text);
		else
			fputc(*text, out);
	}
	fputc('"', out);
}

void json_text(FILE *out, const char *name, const char *text)
{
	fprintf(out, "\"%s\":", name);
	json_quoted(out, text);
	fputc(',', out);
}

static void number_field(FILE *out, const char *name, uint64_t v)
{
	fprintf(out, "\"%s\":%llu,", name, (unsigned long long)v);
}

static void real_field(FILE *out, const char *name, double v)
{
	fprintf(out, "\"%s\":%.3f,", name, v);
}

static void scheme_field(FILE *out, const struct options *o)
{
	const char *uri = o->command == CMD_SOURCE ? o->to : o->command == CMD_TARGET ? o->listen : o->uri;
	char scheme[16];

	snprintf(scheme, sizeof(scheme), "%.*s", (int)strcspn(uri, ":"), uri);
	json_text(out, "transport", scheme);
}

static void guest_fields(FILE *out, const struct run_report *r)
{
	const struct options *o = r->o;

	number_field(out, "memory_bytes", o->memory);
	json_text(out, "memory_kind", kind_name(o->kind));
	json_text(out, "thp", o->thp == THP_ON ? "on" : "off");
	number_field(out, "populate", o->populate);
	number_field(out, "working_set", o->working_set);
	number_field(out, "dirty_rate", o->dirty_rate);
	json_text(out, "pattern", pattern_name(o->pattern));
	number_field(out, "rhythm_us", o->rhythm_us);
	number_field(out, "vcpus", o->vcpus);
	number_field(out, "seed", o->seed);
	json_text(out, "mutator", r->mutator);
}

static void asked_fields(FILE *out, const struct run_report *r)
{
	const struct options *o = r->o;
	char drill[64];

	number_field(out, "run", r->number);
	json_text(out, "command", command_name(o->command));
	scheme_field(out, o);
	json_text(out, "vmm", vmm_name(o->vmm));
	if (vm_kind(o)->proves)
		guest_fields(out, r);
	json_text(out, "mode", ferry_mode_name((enum ferry_mode)o->mode));
	json_text(out, "commit_at", commit_at_name(o->commit_at));
	number_field(out, "downtime_aim_us", o->downtime_us);
	number_field(out, "max_rounds", o->max_rounds);
	number_field(out, "precopy_limit_us", o->precopy_limit_us);
	number_field(out, "channels", o->channels ? o->channels : 1);
	number_field(out, "bandwidth", o->bandwidth);
	json_text(out, "kill", kill_text(drill, &o->kill));
	json_text(out, "arbiter", o->arbiter ? o->arbiter : "");
	json_text(out, "source_host", r->host[VMM_END_SOURCE]);
	json_text(out, "target_host", r->host[VMM_END_TARGET]);
	fprintf(out, "\"both_ends\":%s,", r->whole ? "true" : "false");
}

/* The id under which an arbiter has its record. */
static void session_field(FILE *out, const struct run_report *r)
{
	const struct end_report *e =
		&r->end[r->end[VMM_END_SOURCE].have_result ? VMM_END_SOURCE : VMM_END_TARGET];
	char name[33];

	json_text(out, "session", e->have_result ? session_text(name, e->result.session) : "");
}

static void round_list(FILE *out, const struct run_report *r)
{
	number_field(out, "rounds", r->nrounds);
	fprintf(out, "\"round_list\":[");
	for (unsigned i = 0; i < r->nrounds; i++) {
		const struct ferry_round *d = &r->rounds[i];

		fprintf(out,
			"%s{\"round\":%u,\"pages_sent\":%llu,\"pages_zero\":%llu,\"bytes\":%llu,"
			"\"duration_us\":%llu,\"pages_dirty\":%llu}",
			i ? "," : "", d->round, (unsigned long long)d->pages_sent,
			(unsigned long long)d->pages_zero, (unsigned long long)d->bytes,
			(unsigned long long)d->duration_us, (unsigned long long)d->pages_dirty);
	}
	fprintf(out, "],");
}

static void time_fields(FILE *out, const struct run_report *r)
{
	const struct ferry_stats *s = source_stats(r), *t = target_stats(r);
	const struct ferry_downtime *b = &s->downtime;

	real_field(out, "total_ms", (double)s->elapsed_us / 1000);
	real_field(out, "reserve_ms", (double)r->end[VMM_END_SOURCE].cpu.reserve_us / 1000);
	real_field(out, "precopy_ms", (double)s->precopy_us / 1000);
	real_field(out, "postcopy_ms", (double)t->postcopy_us / 1000);
	number_field(out, "downtime_us", b->total_us);
	number_field(out, "predicted_us", s->predicted_us);
	number_field(out, "stood_us", r->end[VMM_END_SOURCE].cpu.stood_us);
	fprintf(out,
		"\"downtime\":{\"pause_us\":%llu,\"fetch_us\":%llu,\"residue_us\":%llu,\"save_us\":%llu,"
		"\"send_us\":%llu,\"arm_us\":%llu,\"load_us\":%llu,\"resume_us\":%llu},",
		(unsigned long long)b->pause_us, (unsigned long long)b->fetch_us,
		(unsigned long long)b->residue_us, (unsigned long long)b->save_us,
		(unsigned long long)b->send_us, (unsigned long long)b->arm_us, (unsigned long long)b->load_us,
		(unsigned long long)b->resume_us);
}

static void page_fields(FILE *out, const struct run_report *r)
{
	const struct ferry_stats *s = source_stats(r), *t = target_stats(r);

	number_field(out, "bytes_sent", s->bytes_sent);
	number_field(out, "pages_sent", s->pages_sent);
	number_field(out, "pages_zero", s->pages_zero);
	number_field(out, "pages_hole", s->pages_hole);
	number_field(out, "pages_residue",
		     s->pages_residue > t->pages_residue ? s->pages_residue : t->pages_residue);
	number_field(out, "reconnects", s->reconnects > t->reconnects ? s->reconnects : t->reconnects);
	real_field(out, "throughput_mb_s", throughput_mb_s(r));
	number_field(out, "faults", t->faults);
	number_field(out, "faults_local", t->faults_local);
	real_field(out, "fault_p50_us", (double)t->fault_p50_ns / 1000);
	real_field(out, "fault_p99_us", (double)t->fault_p99_ns / 1000);
	real_field(out, "fault_max_us", (double)t->fault_max_ns / 1000);
	real_field(out, "fault_total_ms", (double)t->fault_total_ns / 1e6);
}

/* Bytes of RAM on transparent huge pages: before, after the last page, after the collapse. */
static void thp_fields(FILE *out, const struct run_report *r)
{
	const struct ferry_result *s = &r->end[VMM_END_SOURCE].result, *t = &r->end[VMM_END_TARGET].result;

	fprintf(out, "\"thp_bytes\":{\"source\":%llu,\"arrived\":%llu,\"target\":%llu},",
		(unsigned long long)s->thp_before, (unsigned long long)t->thp_before,
		(unsigned long long)t->thp_after);
	real_field(out, "collapse_ms", (double)t->collapse_us / 1000);
}

/* How page data got into the target's memory; null: by a device, or not known. */
static void landing_field(FILE *out, const struct run_report *r)
{
	const struct ferry_stats *t = target_stats(r);
	const struct ferry_landing *l = &t->landing[0];

	if (!t->nlandings)
		fprintf(out, "\"landing\":null,");
	else
		fprintf(out, "\"landing\":{\"way\":\"%s\",\"mapping_ns\":%u,\"kernel_ns\":%u},",
			ferry_landing_name(l->way), l->mapping_ns, l->kernel_ns);
}

/* How the source knew which pages the guest had written; "": not known. */
static void tracking_fields(FILE *out, const struct run_report *r)
{
	const struct vmm_tracked *t = &r->end[VMM_END_SOURCE].cpu.tracked;

	json_text(out, "dirty_tracking", tracking_name(t->by));
	real_field(out, "dirty_fetch_ms", (double)t->fetch_ns / 1e6);
	number_field(out, "ring_full", t->ring_full);
	fprintf(out, "\"vcpu_pages\":");
	for (uint64_t i = 0; t->by == VMM_TRACKING_RING && i < r->o->vcpus; i++)
		fprintf(out, "%s%llu", i ? "," : "[", (unsigned long long)t->pages[i]);
	fprintf(out, t->by == VMM_TRACKING_RING ? "]," : "null,");
}

static void cpu_fields(FILE *out, const struct run_report *r)
{
	const struct end_cost *s = &r->end[VMM_END_SOURCE].cpu, *t = &r->end[VMM_END_TARGET].cpu;

	fprintf(out,
		"\"cpu_ms\":{\"source\":%.3f,\"target\":%.3f,\"source_precopy\":%.3f,\"target_precopy\":%.3f,"
		"\"source_postcopy\":%.3f,\"target_postcopy\":%.3f},",
		(double)s->run_us / 1000, (double)t->run_us / 1000, (double)s->precopy_us / 1000,
		(double)t->precopy_us / 1000, (double)s->postcopy_us / 1000, (double)t->postcopy_us / 1000);
}

static void proof_fields(FILE *out, const struct run_report *r)
{
	const struct end_cost *s = &r->end[VMM_END_SOURCE].cpu, *t = &r->end[VMM_END_TARGET].cpu;
	uint64_t seen, missing, repeated;

	observer_total(&r->observer, &seen, &missing, &repeated);
	number_field(out, "precopy_stamps", s->precopy_stamps);
	number_field(out, "postcopy_stamps", t->stamps);
	fprintf(out, "\"resident_bytes\":{\"source\":%llu,\"target\":%llu},", (unsigned long long)s->resident,
		(unsigned long long)t->resident);
	number_field(out, "pages_checked", r->have_proof ? r->proof.pages_checked : 0);
	number_field(out, "pages_bad", r->have_proof ? r->proof.pages_bad : 0);
	number_field(out, "guest_errors", r->have_proof ? r->proof.guest_errors : 0);
	number_field(out, "outputs_seen", seen);
	number_field(out, "outputs_missing", missing);
	number_field(out, "outputs_repeated", repeated);
	number_field(out, "handovers", r->observer.handovers);
	json_text(out, "proof", r->have_proof ? r->proof.text : "not made");
}

static void floor_object(FILE *out, const struct floor *f)
{
	fprintf(out,
		"\"floor\":{\"throughput_mb_s\":%.1f,\"rtt_us\":%.2f,\"rtt_p99_us\":%.2f,\"fault_p50_us\":%.2f,"
		"\"fault_p99_us\":%.2f,\"stall_p50_us\":%.2f,\"stall_p99_us\":%.2f,\"cpu_s_per_gib\":%.4f",
		f->throughput_mb_s, f->rtt_us, f->rtt_p99_us, f->fault_p50_us, f->fault_p99_us,
		f->stall_p50_us, f->stall_p99_us, f->cpu_s_per_gib);
	for (unsigned i = 0; i < f->nwrites; i++)
		fprintf(out, "%s{\"bytes\":%u,\"mb_s\":%.1f}", i ? "," : ",\"write\":[", f->write[i].size,
			f->write[i].mb_s);
	fprintf(out, f->nwrites ? "]}" : "}");
}

static void ratio_fields(FILE *out, const struct run_report *r)
{
	const struct ferry_stats *t = target_stats(r);
	const struct floor *f = &r->floor;

	floor_object(out, f);
	fprintf(out, ",\"ratios\":{\"throughput\":%.3f", throughput_mb_s(r) / f->throughput_mb_s);
	if (t->faults)
		fprintf(out, ",\"fault_p50\":%.3f,\"fault_p99\":%.3f,\"fault_p99_to_floor_p50\":%.3f",
			(double)t->fault_p50_ns / 1000 / f->fault_p50_us,
			(double)t->fault_p99_ns / 1000 / f->fault_p99_us,
			(double)t->fault_p99_ns / 1000 / f->fault_p50_us);
	fprintf(out, "},");
}

void report_json_object(FILE *out, const struct run_report *r)
{
	const struct end_report *s = &r->end[VMM_END_SOURCE], *t = &r->end[VMM_END_TARGET];

	fprintf(out, "{");
	asked_fields(out, r);
	session_field(out, r);
	json_text(out, "outcome", r->outcome);
	json_text(out, "owner", ferry_owner_name(r->owner));
	round_list(out, r);
	time_fields(out, r);
	page_fields(out, r);
	landing_field(out, r);
	cpu_fields(out, r);
	if (vm_kind(r->o)->proves) {
		thp_fields(out, r);
		tracking_fields(out, r);
		proof_fields(out, r);
	}
	if (r->have_floor)
		ratio_fields(out, r);
	else
		fprintf(out, "\"floor\":null,\"ratios\":null,");
	json_text(out, "policy", r->npolicy ? r->policy[r->npolicy - 1] : "");
	json_text(out, "source_says", s->have_result ? ferry_outcome_name(s->result.outcome) : "nothing");
	json_text(out, "target_says", t->have_result ? ferry_outcome_name(t->result.outcome) : "nothing");
	json_text(out, "detail",
		  s->have_result && s->result.detail[0] ? s->result.detail
		  : t->have_result			? t->result.detail
							: "");
	json_text(out, "sentence", r->sentence);
	fprintf(out, "\"exit_code\":%d}", r->verdict);
}

void report_json(FILE *out, const struct run_report *r)
{
	report_json_object(out, r);
	fprintf(out, "\n");
}

void floor_json(FILE *out, const struct floor *f, const struct options *o)
{
	fprintf(out, "{");
	scheme_field(out, o);
	number_field(out, "memory_bytes", o->memory);
	json_text(out, "memory_kind", kind_name(o->kind));
	floor_object(out, f);
	if (o->pull)
		fprintf(out,
			",\"pull\":{\"pages\":%llu,\"working_set\":%llu,\"dirty_rate\":%llu,\"channels\":%llu,"
			"\"total_ms\":%.3f,\"touched\":%llu,\"faults\":%llu,\"fault_p50_us\":%.2f,\"fault_p99_us\":%.2f}",
			(unsigned long long)o->pull, (unsigned long long)o->working_set,
			(unsigned long long)o->dirty_rate, o->channels ? (unsigned long long)o->channels : 1,
			f->pull.total_ms, (unsigned long long)f->pull.touched,
			(unsigned long long)f->pull.faults, f->pull.fault_p50_us, f->pull.fault_p99_us);
	fprintf(out, "}\n");
}

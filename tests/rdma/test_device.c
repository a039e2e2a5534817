// SPDX-License-Identifier: MIT
/*
 * The device under the transport: addresses and options that name none, options that take hold, memory that cannot be
 * registered. In the soft-RoCE machine, with rxe0 at 10.9.0.1 and rxe1 at 10.10.0.1.
 */
#include <arpa/inet.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ends.h"
#include "rdma_left.h"
#include "rig.h"
#include "transport/dial.h"

static int try_uri(const char *uri, bool listens, struct fail *f)
{
	struct xport_param p = { .timeout_us = 1000000 };
	struct xport_link_id id = { .channels = 1 };
	struct xport_listener *listener = NULL;
	struct xport_link *link = NULL;
	int err;

	*f = (struct fail){ 0 };
	err = listens ? xport_listen(&listener, uri, &p, f) : xport_connect(&link, uri, &id, &p, 700000, f);
	if (listener)
		listener->ops->close(listener);
	if (link)
		link->ops->close(link);
	return err;
}

Test(device, addresses_and_options_that_lead_nowhere)
{
	static const struct {
		const char *uri;
		bool listens;
		int err;
		const char *says;
	} bad[] = {
		{ "rdma:127.0.0.1:0", true, -EADDRNOTAVAIL, "no RDMA device has this address" },
		{ "rdma:192.0.2.7:0", true, -EADDRNOTAVAIL, "no RDMA device has this address" },
		{ "rdma:127.0.0.1:4000", false, -EADDRNOTAVAIL, "no RDMA device" },
		{ "rdma:192.0.2.7:4000", false, -ENETUNREACH, "192.0.2.7" },
		{ "rdma:no.such.host.invalid:4000", false, -EADDRNOTAVAIL, "cannot be resolved" },
		{ "rdma:10.9.0.1:4000", false, -ECONNREFUSED, "nobody listens there" },
		{ "rdma:10.9.0.99:4000", false, -ETIMEDOUT, "in time" },
		{ "rdma:10.9.0.1:0?dev=nosuch0", true, -ENODEV, "there is no RDMA device \"nosuch0\" here" },
		{ "rdma:10.9.0.1:4000?dev=nosuch0", false, -ENODEV,
		  "there is no RDMA device \"nosuch0\" here" },
		{ "rdma:10.9.0.1:0?dev=rxe0&gid=99", true, -EADDRNOTAVAIL,
		  "no IP address at that index of its GID table" },
		{ "rdma:10.9.0.1:4000?dev=rxe0&gid=99", false, -EADDRNOTAVAIL,
		  "no IPv4 address at that index" },
		{ "rdma:10.9.0.1:0?dev=rxe1", true, -ENODEV,
		  "is an address of device rxe0, and dev=rxe1 was asked for" },
		{ "rdma:10.9.0.1:0?pin=odp", true, -EOPNOTSUPP, "rxe0 has no on-demand paging" },
		{ "rdma:10.9.0.1:4000?pin=odp", false, -EOPNOTSUPP, "rxe0 has no on-demand paging" },
	};
	struct fail f;
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int err = try_uri(bad[i].uri, bad[i].listens, &f);

		cr_expect_eq(err, bad[i].err, "%s: %d: %s", bad[i].uri, err, fail_text(&f));
		cr_expect(strstr(fail_text(&f), bad[i].says), "%s: %s", bad[i].uri, fail_text(&f));
		ends_nothing_left();
	}
}

/* What a name comes to: the host's addresses for the port of e->uri, without a resolver. */
static struct xport_addrs *known(const struct ends *e, const char *const *hosts, unsigned n)
{
	struct xport_addrs *a = calloc(1, sizeof(*a));

	for (; a->n < n; a->n++) {
		struct sockaddr_in *v4 = (struct sockaddr_in *)&a->a[a->n].sa;

		*v4 = (struct sockaddr_in){ .sin_family = AF_INET,
					    .sin_port = htons((uint16_t)atoi(strrchr(e->uri, ':') + 1)) };
		cr_assert_eq(inet_pton(AF_INET, hosts[a->n], &v4->sin_addr), 1);
		a->a[a->n].len = sizeof(*v4);
	}
	return a;
}

/* 10.9.0.99 is a black hole, nobody listens at 10.9.0.3, no RDMA leads to the others. */
Test(device, of_several_addresses_the_one_that_answers)
{
	static const char *const cases[][3] = { { "10.9.0.99", HOST },
						{ "10.9.0.3", HOST },
						{ "127.0.0.1", "192.0.2.7", HOST },
						{ "10.9.0.99", "10.9.0.3", HOST },
						{ HOST, "10.9.0.99" } };
	struct ends e;
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct xport_addrs *a;

		ends_listen(&e, "");
		a = known(&e, cases[i], cases[i][2] ? 3 : 2);
		e.param.addrs = &a;
		cr_assert_eq(ends_join(&e), 0, "%zu: %s", i, fail_text(&e.a.fail));
		ends_stop(&e);
		xport_addrs_free(a);
	}
}

Test(device, none_of_several_addresses_answers)
{
	static const struct {
		const char *hosts[2];
		int err;
		const char *says;
	} cases[] = { { { "10.9.0.99", "10.9.0.98" }, -ETIMEDOUT, "none of its 2 addresses answers" },
		      { { "10.9.0.3", "192.0.2.7" }, -ECONNREFUSED, "start the target first" } };
	struct xport_link_id id = { .channels = 1 };
	struct xport_link *l;
	struct ends e;
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct xport_addrs *a;

		ends_listen(&e, "");
		a = known(&e, cases[i].hosts, 2);
		e.param.addrs = &a;
		cr_assert_eq(xport_connect(&l, e.uri, &id, &e.param, 2000000, &e.a.fail), cases[i].err, "%s",
			     fail_text(&e.a.fail));
		ends_says(&e.a.fail, cases[i].says);
		ends_stop(&e);
		xport_addrs_free(a);
	}
}

static int counted(void *arg)
{
	return ++*(unsigned *)arg < 2 ? 0 : -ECANCELED;
}

/* Whatever a connect waits for, a wake is heard: a black hole, a knock at two, and a target that does not answer. */
Test(device, a_wake_ends_a_connect)
{
	static const char *const holes[] = { "10.9.0.99", "10.9.0.98" };
	struct xport_link_id id = { .channels = 16 };
	struct xport_link *l;
	struct ends e;
	unsigned way, n;

	for (way = 0; way < 3; way++) {
		struct xport_addrs *a;
		int fds[2];

		ends_listen(&e, "");
		a = way < 2 ? known(&e, holes, 1 + way) : NULL;
		cr_assert(!pipe(fds) && write(fds[1], "x", 1) == 1);
		e.param.addrs = &a;
		e.param.woken = counted;
		e.param.woken_arg = &n;
		e.param.wake_fd = fds[0];
		n = 0;
		cr_assert_eq(xport_connect(&l, e.uri, &id, &e.param, 3600000000, &e.a.fail), -ECANCELED, "%s",
			     fail_text(&e.a.fail));
		cr_assert_eq(n, 2);
		close(fds[0]);
		close(fds[1]);
		ends_stop(&e);
		xport_addrs_free(a);
	}
}

static unsigned path_mtu(struct xr_conn *c)
{
	struct ibv_qp_attr a = { .path_mtu = 0 };
	struct ibv_qp_init_attr init;

	cr_assert(!ibv_query_qp(c->qp, &a, IBV_QP_PATH_MTU, &init));
	return 128u << a.path_mtu;
}

/* Of both ends, the smaller; without the option what the device's port has. */
Test(device, mtu_takes_hold_at_both_ends)
{
	static const struct {
		const char *query;
		unsigned mtu;
	} cases[] = { { "?mtu=256", 256 }, { "?mtu=1024", 1024 }, { "", 4096 } };
	struct ends e;
	size_t i, k;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ends_start(&e, cases[i].query);
		for (k = 0; k < 3; k++) {
			cr_expect_eq(path_mtu(&ends_inside(&e.a)->conn[k]), cases[i].mtu);
			cr_expect_eq(path_mtu(&ends_inside(&e.b)->conn[k]), cases[i].mtu);
		}
		ends_stop(&e);
	}
	ends_listen(&e, "?mtu=2048");
	strcpy(strchr(e.uri, '?'), "?mtu=512");
	cr_assert_eq(ends_join(&e), 0, "%s", fail_text(&e.a.fail));
	cr_expect_eq(path_mtu(&ends_inside(&e.b)->conn[1]), 512);
	ends_stop(&e);
}

/* Each IPv4 address of the device's table can be bound by its index. */
Test(device, gid_chooses_the_address)
{
	struct ibv_gid_entry gid[32];
	static const uint8_t v4_mapped[12] = { [10] = 0xff, [11] = 0xff };
	char query[64], text[64];
	struct ends e;
	ssize_t n, i;
	int tried = 0;

	ends_start(&e, "");
	n = ibv_query_gid_table(ends_inside(&e.a)->ctx, gid, 32, 0);
	ends_stop(&e);
	for (i = 0; i < n; i++) {
		struct sockaddr_in *local;

		if (gid[i].gid_type != IBV_GID_TYPE_ROCE_V2 || memcmp(gid[i].gid.raw, v4_mapped, 12))
			continue;
		snprintf(query, sizeof(query), "?dev=rxe0&gid=%u", gid[i].gid_index);
		ends_start(&e, query);
		local = (struct sockaddr_in *)rdma_get_local_addr(ends_inside(&e.a)->conn[0].id);
		cr_expect(!memcmp(&local->sin_addr, gid[i].gid.raw + 12, 4), "%s is bound to %s", query,
			  inet_ntop(AF_INET, &local->sin_addr, text, sizeof(text)));
		ends_stop(&e);
		tried++;
	}
	cr_assert_gt(tried, 0);
}

/* ---- memory ---- */

/* Before it opens a device: this process may pin so much and has no right to more, as a VMM that runs without privileges. */
static void limit_pinned(uint64_t more)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2];
	struct rlimit lim = { more, more };

	cr_assert(!syscall(SYS_capget, &h, d));
	d[0].effective &= ~(1u << CAP_IPC_LOCK);
	cr_assert(!syscall(SYS_capset, &h, d));
	cr_assert(!setrlimit(RLIMIT_MEMLOCK, &lim));
}

Test(device, a_registration_refused_half_way_leaves_nothing)
{
	char before[200], after[200];
	struct ends e;
	int err;

	ends_start(&e, "");
	rdma_left(before, sizeof(before));
	cr_assert(strstr(before, " MR"), "the kernel counts %s", before);
	/* The second region is not there any more. */
	cr_assert(!munmap(e.a.ram + PAGES * PAGE, OTHER_PAGES * PAGE));
	err = ends_expose(&e.a, XPORT_PEER_WRITE);
	cr_assert_eq(err, -EFAULT, "%d: %s", err, fail_text(&e.a.fail));
	ends_says(&e.a.fail, "does not register 65536 bytes");
	rdma_left(after, sizeof(after));
	cr_assert_str_eq(before, after);
	cr_assert(mmap(e.a.ram + PAGES * PAGE, OTHER_PAGES * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
	/* The link is as good as before. */
	cr_assert_eq(ends_expose(&e.a, XPORT_PEER_WRITE), 0, "%s", fail_text(&e.a.fail));
	ends_stop(&e);
}

Test(device, memlock_too_low_says_how_much_is_needed)
{
	struct ends e;
	int err;

	limit_pinned(4 << 20);
	ends_start(&e, "");
	err = e.a.link->ops->fits(e.a.link, 64 << 20);
	cr_assert_eq(err, -ENOMEM, "%d", err);
	ends_says(&e.a.fail,
		  "64 MiB of memory must be pinned for rxe0, and RLIMIT_MEMLOCK is 4 MiB; raise it to ");
	ends_says(&e.a.fail, "LimitMEMLOCK=");
	fail_reset(&e.a.fail);
	cr_assert_eq(ends_expose(&e.a, XPORT_PEER_WRITE), -ENOMEM);
	ends_says(&e.a.fail, "RLIMIT_MEMLOCK");
	ends_stop(&e);
}

/* In chunks it does not matter how much there is. */
Test(device, pinned_in_chunks_any_amount_fits)
{
	struct ends e;

	limit_pinned(4 << 20);
	ends_start(&e, "?pin=lazy");
	cr_assert_eq(e.a.link->ops->fits(e.a.link, UINT64_C(64) << 30), 0);
	ends_stop(&e);
}

/* The whole engine: refused at the reservation, no op but its own was called. */
Test(device, memlock_too_low_before_the_vm_is_touched)
{
	struct rig r;

	limit_pinned(8 << 20);
	rig_init(&r, RIG_TCP_ANON);
	rig_run(&r);
	rig_refused(&r);
	cr_assert_eq(r.src.calls[FAKE_DIRTY_START], 0);
	cr_assert_eq(r.tgt.calls[FAKE_LOAD], 0);
	rig_says(r.sres.detail, "RLIMIT_MEMLOCK is 8 MiB; raise it to ");
	rig_says(r.tres.detail, "RLIMIT_MEMLOCK is 8 MiB; raise it to ");
	rig_free(&r);
}

/* What the other tests rely on. */
Test(device, what_is_left_is_counted)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_context *ctx = list && list[0] ? ibv_open_device(list[0]) : NULL;
	static uint8_t page[PAGE] __attribute__((aligned(4096)));
	struct ibv_pd *pd;
	struct ibv_mr *mr;
	char what[200];

	cr_assert(ctx);
	ends_nothing_left();
	pd = ibv_alloc_pd(ctx);
	mr = ibv_reg_mr(pd, page, sizeof(page), 0);
	cr_assert(pd && mr);
	cr_assert_eq(rdma_left(what, sizeof(what)), 2, "%s", what);
	cr_assert_str_eq(what, "1 PD, 1 MR");
	cr_assert(!ibv_dereg_mr(mr) && !ibv_dealloc_pd(pd));
	ends_nothing_left();
	ibv_close_device(ctx);
	ibv_free_device_list(list);
}

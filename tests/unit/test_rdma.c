// SPDX-License-Identifier: MIT
/* rdma: URIs where there is no device, or no RDMA in the build: each is refused with a sentence that says what to do. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/fail.h"
#include "transport/xport.h"

static int try_listen(const char *uri, struct fail *f)
{
	struct xport_param p = { .timeout_us = 1000000 };
	struct xport_listener *l = NULL;
	int err;

	*f = (struct fail){ 0 };
	err = xport_listen(&l, uri, &p, f);
	if (!err)
		l->ops->close(l);
	return err;
}

static int try_connect(const char *uri, struct fail *f)
{
	struct xport_param p = { .timeout_us = 1000000 };
	struct xport_link_id id = { .channels = 1 };
	struct xport_link *l = NULL;
	int err;

	*f = (struct fail){ 0 };
	err = xport_connect(&l, uri, &id, &p, 1000000, f);
	if (!err)
		l->ops->close(l);
	return err;
}

Test(rdma, options_that_do_not_exist)
{
	static const struct {
		const char *uri, *says;
	} bad[] = {
		{ "rdma:localhost:1?pin=some", "all, lazy or odp" },
		{ "rdma:localhost:1?mtu=1500", "256, 512, 1024, 2048 or 4096" },
		{ "rdma:localhost:1?mtu=128", "256, 512, 1024, 2048 or 4096" },
		{ "rdma:localhost:1?gid=3", "dev=" },
		{ "rdma:localhost:1?gid=x&dev=mlx5_0", "gid=x" },
		{ "rdma:localhost:1?gid=70000&dev=mlx5_0", "index" },
		{ "rdma:localhost:1?pins=all", "unknown" },
		{ "rdma:localhost:1?dev", "not key=value" },
		{ "tcp:localhost:1?pin=all", "unknown" },
	};
	struct fail f;
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int err = try_connect(bad[i].uri, &f);

		if (err == -EOPNOTSUPP && strstr(fail_text(&f), "not in this build"))
			continue;
		cr_expect_eq(err, -EINVAL, "%s: %d", bad[i].uri, err);
		cr_expect(strstr(fail_text(&f), bad[i].says), "%s: %s", bad[i].uri, fail_text(&f));
	}
}

Test(rdma, without_a_device)
{
	struct fail f;
	int err;

	if (!access("/dev/infiniband/rdma_cm", F_OK))
		cr_skip_test("there is RDMA here");
	err = try_listen("rdma::4321", &f);
	cr_assert_eq(err, -EOPNOTSUPP, "%d", err);
	cr_assert(strstr(fail_text(&f), "rdma_ucm") || strstr(fail_text(&f), "tcp:host:port"), "%s",
		  fail_text(&f));
	err = try_connect("rdma:127.0.0.1:4321?pin=lazy&mtu=2048&bandwidth=1G", &f);
	cr_assert_eq(err, -EOPNOTSUPP, "%d", err);
	cr_assert(strstr(fail_text(&f), "rdma_ucm") || strstr(fail_text(&f), "tcp:host:port"), "%s",
		  fail_text(&f));
}

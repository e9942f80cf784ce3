// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * Crashes the kernel in the way that the parameter "how" says, a moment after it was loaded, so that whoever
 * loads it can still hang up. For throw-away guests only.
 */
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/hrtimer.h>
#include <linux/irqflags.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/string.h>
#include <linux/version.h>

static char *how = "";
module_param(how, charp, 0400);
MODULE_PARM_DESC(how, "panic, bug, null, warn, interrupt, soft-lockup, hard-lockup, rcu-stall or hung-task");

static struct hrtimer timer;
static int *volatile nothing;

static enum hrtimer_restart in_interrupt_context(struct hrtimer *unused)
{
	*nothing = 1;
	return HRTIMER_NORESTART;
}

static void start_timer(void)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)
	hrtimer_setup(&timer, in_interrupt_context, CLOCK_MONOTONIC, HRTIMER_MODE_REL_HARD);
#else
	hrtimer_init(&timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_HARD);
	timer.function = in_interrupt_context;
#endif
	hrtimer_start(&timer, ms_to_ktime(10), HRTIMER_MODE_REL_HARD);
}

/* Never returns, and looks as if it had something to do. */
static void spin(void)
{
	for (;;)
		cpu_relax();
}

static int crash(void *unused)
{
	msleep(1000);
	if (!strcmp(how, "panic")) {
		panic("kdump-harness: asked to panic");
	} else if (!strcmp(how, "bug")) {
		BUG();
	} else if (!strcmp(how, "null")) {
		*nothing = 1;
	} else if (!strcmp(how, "warn")) {
		WARN(1, "kdump-harness: asked to warn\n");
	} else if (!strcmp(how, "interrupt")) {
		start_timer();
	} else if (!strcmp(how, "soft-lockup") || !strcmp(how, "rcu-stall")) {
		preempt_disable();
		spin();
	} else if (!strcmp(how, "hard-lockup")) {
		local_irq_disable();
		spin();
	} else if (!strcmp(how, "hung-task")) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		schedule();
	}
	return 0;
}

static int __init crash_init(void)
{
	static const char *const known[] = {
		"panic", "bug", "null", "warn", "interrupt", "soft-lockup", "hard-lockup", "rcu-stall", "hung-task",
	};
	struct task_struct *task;
	size_t n = 0;

	while (n < ARRAY_SIZE(known) && strcmp(known[n], how))
		n++;
	if (n == ARRAY_SIZE(known)) {
		pr_err("kdump-harness: nobody knows how to crash by \"%s\"\n", how);
		return -EINVAL;
	}
	task = kthread_run(crash, NULL, "kdump-crash");
	return PTR_ERR_OR_ZERO(task);
}

module_init(crash_init);
MODULE_DESCRIPTION("Crashes the kernel on purpose, to see whether kdump works");
MODULE_LICENSE("GPL");

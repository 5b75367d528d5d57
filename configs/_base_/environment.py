"""What every run has in common, whichever library it belongs to: environment, log level, where weights come from."""

custom_imports = dict(imports=['mmvit_ext'], allow_failed_imports=False)

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [dict(type='LocalVisBackend')]
# An interrupted run goes on as if it had not been interrupted; SIGTERM and Ctrl-C save first.
default_hooks = dict(
    # Values of the log are read from a GPU when a line is due, not in each iteration.
    runtime_info=dict(type='mmvit_ext.DeferredInfoHook'),
    exact_resume=dict(type='mmvit_ext.ExactResumeHook'),
    resumed_config=dict(type='mmvit_ext.ResumedConfigHook'),
    preemption=dict(type='mmvit_ext.PreemptionHook'),
    # A loss or gradient that is NaN ends the run; max_skips=N leaves up to N such updates out instead.
    nonfinite=dict(type='mmvit_ext.NonFiniteHook'),
    metrics=dict(type='mmvit_ext.MetricsHook'),
    # Checkpoints are read without running code from them; trust=True allows it.
    safe_files=dict(type='mmvit_ext.SafeFilesHook'),
    skipped_samples=dict(type='mmvit_ext.SkippedSamplesHook'),
)
log_level = 'INFO'
load_from = None
resume = False

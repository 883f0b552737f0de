"""Keys of the trainers' arguments that a recipe gives elsewhere. Loads nothing: `check` reads them."""

from __future__ import annotations

#: Keys of `args` that have a setting of their own, or that the resume promise rests on.
OWNED = {
    "output_dir": "the stage's scratch folder",
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size and micro_batch",
    "gradient_accumulation_steps": "batch_size and micro_batch",
    "learning_rate": "learning_rate",
    "warmup_steps": "warmup_steps",
    "lr_scheduler_type": "schedule",
    "max_length": "max_length",
    "packing": "packing",
    "padding_free": "packing",
    "seed": "the run's seed",
    "data_seed": "the run's seed",
    **dict.fromkeys(("save_strategy", "save_steps", "save_total_limit", "save_only_model"), "save_every"),
    **dict.fromkeys(("logging_strategy", "logging_steps", "report_to", "disable_tqdm"), "log_every"),
    **dict.fromkeys(
        ("ignore_data_skip", "train_sampling_strategy", "dataloader_drop_last"),
        "nothing: data order is fixed",
    ),
    **dict.fromkeys(
        ("auto_find_batch_size", "enable_jit_checkpoint", "load_best_model_at_end"),
        "nothing: it breaks exact resume",
    ),
}

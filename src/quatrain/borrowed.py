"""What other trainers call the fields of a recipe: TRL, Unsloth, LLaMA-Factory, axolotl, torchtune.

Not for the names of a file's columns (data/columns.py).
"""

from __future__ import annotations

_NAMES = {
    "model.init": "base base_model model model_name model_name_or_path model_path model_id "
    "pretrained_model_name_or_path init init_from",
    "tokenizer.path": "tokenizer tokenizer_name tokenizer_path tokenizer_name_or_path",
    "data.train": "data datasets dataset dataset_name dataset_path dataset_dir data_path "
    "data_files train train_data train_dataset train_file train_files train_path",
    "data.eval": "eval_data eval_dataset eval_file valid_data validation_data validation_file "
    "val_data val_file test_data test_datasets test_file",
    "data.holdout": "val_size val_set_size test_size eval_size validation_split",
    "data.limit": "max_samples max_train_samples num_samples",
    "data.block_size": "max_seq_length max_seq_len max_length max_len seq_length seq_len "
    "sequence_len sequence_length cutoff_len model_max_length context_length",
    "data.columns.text": "dataset_text_field text_field text_column",
    "data.hub_split": "split dataset_split train_split",
    "run_dir": "output output_dir out out_dir save_dir save_path checkpoint_dir log_dir",
    "train.learning_rate": "lr",
    "train.epochs": "epoch num_epochs num_train_epochs n_epochs max_epochs",
    "train.max_steps": "steps num_steps max_iters iters",
    "train.budget": "time max_time time_limit minutes",
    "train.batch_size": "bs batch global_batch_size effective_batch_size train_batch_size",
    "train.micro_batch_size": "per_device_train_batch_size per_device_batch_size "
    "per_gpu_train_batch_size",
    "train.batch_size train.micro_batch_size": "gradient_accumulation_steps grad_accum "
    "gradient_accumulation",
    "train.schedule": "lr_scheduler lr_scheduler_type scheduler",
    "train.warmup_ratio": "warmup warmup_steps",
    "train.beta1": "adam_beta1",
    "train.beta2": "adam_beta2",
    "train.adam_eps": "adam_epsilon",
    "train.max_grad_norm": "clip_grad_norm gradient_clipping grad_clip",
    "train.precision": "bf16 fp16 fp32 dtype torch_dtype mixed_precision",
    "train.activation_checkpointing": "gradient_checkpointing enable_activation_checkpointing "
    "use_gradient_checkpointing",
    "train.eval_interval": "eval_steps eval_every",
    "train.save_interval": "save_steps save_every",
    "train.log_interval": "logging_steps log_every log_every_n_steps",
    "train.keep_last": "save_total_limit",
    "train.sinks": "report_to",
    "train.early_stop": "early_stopping_patience",
    "train.adapter": "use_peft use_lora lora peft finetuning_type",
    "lora.rank": "r lora_r lora_rank",
    "lora.alpha": "lora_alpha",
    "lora.dropout": "lora_dropout",
    "lora.targets": "target_modules lora_target lora_target_modules lora_modules lora_attn_modules",
    "generate.max_new_tokens": "max_tokens num_predict n_predict",
    "generate.temperature": "temp",
    "generate.repetition_penalty": "repeat_penalty",
    "generate.stop": "stop_strings stop_sequences",
    "generate.logprobs": "top_logprobs n_probs",
}
_FIELD_OF = {name: fields.split() for fields, names in _NAMES.items() for name in names.split()}


def fields_called(name: str) -> list[str]:
    """Give the fields that do what an option or a field of another trainer does.

        "--model-name", "Model_Name"  ->  ["model.init"]

    Returns:
        Usually one field; none for a name that is not known.
    """
    return _FIELD_OF.get(plain(name), [])


def plain(name: str) -> str:
    """Write an option as a field would be written."""
    return name.strip().lstrip("-").replace("-", "_").lower()

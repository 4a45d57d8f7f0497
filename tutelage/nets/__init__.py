"""Parts with parameters. Every net has leading member axes: seeds, twin critics, ensembles are one batched product."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("experiments", "0012_needs_attention"),
    ]

    operations = [
        migrations.AlterField(
            model_name="job",
            name="kind",
            field=models.CharField(
                choices=[
                    ("launch", "start an experiment"),
                    ("next", "start the next iteration"),
                    ("pause", "pause"),
                    ("cancel", "cancel"),
                    ("resume", "resume and retry failed shards"),
                    ("accept_probe", "continue despite the judge probe"),
                    ("chat", "playground"),
                    ("publish", "publish a model"),
                    ("audit", "create an audit batch"),
                    ("hand_over", "change owner or visibility"),
                    ("check_model", "check a model"),
                ],
                max_length=16,
            ),
        ),
    ]
